"""The command line on a real, tiny Stable Diffusion pipeline made here."""

import json
import pickle
import shutil
from importlib.util import find_spec

import pytest
import torch
from PIL import Image

import seppo_core.__main__ as command_line
from seppo_core.__main__ import main
from seppo_core.adapters.files import load_lora
from seppo_core.runs.run import Run
from seppo_core.training.config import config_of

# Both take seconds to import: only tests that run wait for them.
pytestmark = pytest.mark.skipif(
    not (find_spec("diffusers") and find_spec("transformers")),
    reason="needs diffusers and transformers",
)


def tokenizer(folder):
    """CLIP's tokenizer over single bytes: enough words for any caption of lower-case letters."""
    import transformers

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16
    )


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    import diffusers
    import transformers

    base = tmp_path_factory.mktemp("pipeline")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=54,
                hidden_size=12,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=16,
                bos_token_id=52,
                eos_token_id=53,
                pad_token_id=53,
            )  # fmt: skip
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(4, 4), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=2,
        )  # fmt: skip
        unet = diffusers.UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 8),
            layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=12,
            attention_head_dim=4, norm_num_groups=4,
        )  # fmt: skip
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer(base / "words"), unet=unet,
        scheduler=diffusers.DDIMScheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(base / "model")
    return base / "model"


@pytest.fixture
def job(pipeline, tmp_path):
    winners = tmp_path / "winners"
    winners.mkdir()
    for index, caption in enumerate(["a red cat", "a blue dog"]):
        Image.new("RGB", (32, 32), (255 * index, 40, 90)).save(winners / f"{index}.png")
        (winners / f"{index}.txt").write_text(caption)
    values = {
        "model": {"path": str(pipeline), "device": "cpu"},
        "data": {
            "folder": str(winners),
            "preparation": {"resolution": 16, "multiple": 8, "mode": "square"},
        },
        "steps": 3,
        "references": {"sampling_steps": 2},
        "lora": {"rank": 2},
        "run": {"directory": str(tmp_path / "run")},
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(values))
    return path


def test_a_job_file_trains_and_its_lora_loads_into_the_pipeline(job, pipeline, tmp_path, capsys):
    import diffusers

    assert main(["train", "--config", str(job), "--set", "loss.beta=500"]) == 0
    printed = capsys.readouterr().out
    assert "2 winners of one size: a pass over all takes 2 steps of up to 1 winners" in printed
    assert "3 steps see each winner 1 to 2 times" in printed
    assert "step 3/3  loss" in printed
    run = Run(tmp_path / "run")
    assert config_of(run.about()).loss.beta == 500
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]
    weights, about = load_lora(run.weights_path())
    assert about["seppo.base_name"] == "model"
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None)
    pipe.load_lora_weights(str(run.weights_path()))
    loaded = sum(1 for name, _ in pipe.unet.named_modules() if name.endswith("lora_A.default_0"))
    assert loaded == len(weights) // 2 > 0


def test_the_same_job_again_trains_nothing_and_more_steps_go_on(job, capsys):
    assert main(["train", "--config", str(job)]) == 0
    capsys.readouterr()
    assert main(["train", "--config", str(job)]) == 0
    assert "loss" not in capsys.readouterr().out
    assert main(["train", "--config", str(job), "--set", "steps=4"]) == 0
    printed = capsys.readouterr().out
    assert "step 4/4" in printed
    assert "step 3/" not in printed


def test_a_stopped_job_says_so_and_the_same_command_asks_it_to_go_on(
    job, tmp_path, monkeypatch, capsys
):
    plain = command_line.say

    def stop_at_the_first(text):
        plain(text)
        if text.startswith("step 1/"):
            Run(tmp_path / "run").request_stop()

    monkeypatch.setattr(command_line, "say", stop_at_the_first)
    assert main(["train", "--config", str(job)]) == 0
    printed = capsys.readouterr().out
    assert "stopped at step 1 of 3\nthe same command goes on from there" in printed
    assert main(["train", "--config", str(job)]) == 0
    printed = capsys.readouterr().out
    assert "step 2/3" in printed and printed.endswith("done at step 3 of 3\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lora.rank=0", "lora.rank must be at least 1, got 0"),
        ("loss.beta=0", "loss.beta must be positive"),
        ("model.path=nowhere", "no diffusers pipeline"),
        ("data.folder=nowhere", "data.folder: 'nowhere' is no folder"),
        ("stepz=3", "unknown setting stepz"),
        ("run.directory=", "run.directory is missing"),
        ("model.dtype=int8", "model.dtype: unknown 'int8'"),
        ("optimizer.name=sgd", "optimizer.name: unknown 'sgd'"),
    ],
)
def test_a_wrong_job_is_one_line_and_writes_nothing(job, tmp_path, capsys, change, message):
    assert main(["train", "--config", str(job), "--set", change]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_missing_job_file_is_named(capsys):
    assert main(["train", "--config", "gone.json"]) == 2
    assert "gone.json: there is no such file" in capsys.readouterr().err


class Trap:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_weights_that_are_no_safetensors_are_not_opened(job, pipeline, tmp_path, capsys, component):
    trapped = tmp_path / "trapped"
    shutil.copytree(pipeline, trapped)
    (weights,) = (trapped / component).glob("*.safetensors")
    weights.unlink()
    names = ("diffusion_pytorch_model.bin", "pytorch_model.bin")
    for name in names:
        (trapped / component / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    assert main(["train", "--config", str(job), "--set", f"model.path={trapped}"]) == 2
    error = capsys.readouterr().err
    assert f"model.path: {trapped} cannot be loaded" in error and "have to be safetensors" in error
    assert not (tmp_path / "sprung").exists()
