"""Prompts in files that ComfyUI and other programs really made; their packages are fetched on first use."""

import sys
from pathlib import Path

import pytest

from seppo_core.data.generation import Generation, NoPromptError
from seppo_core.data.prompts import read_generation
from seppo_core.data.readers import read_winners
from seppo_core.errors import DatasetError

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))
import real_data  # noqa: E402
from venvs import SetupError  # noqa: E402


@pytest.fixture(scope="module")
def package():
    """A package's folder by its name; the test is skipped with the reason where it cannot be had."""

    def folder(name: str) -> Path:
        try:
            return real_data.fetch(name)
        except SetupError as error:
            pytest.skip(str(error))

    return folder


def read(folder: Path, name: str) -> Generation:
    (path,) = folder.rglob(name)
    with path.open("rb") as file:
        return read_generation(file, path.name)


def test_comfyui_picture_of_an_image_to_image_graph(package):
    found = read(package("sd-parsers"), "img2img_cropped.png")
    assert found == Generation(
        *("photograph of victorian woman with wings, sky clouds, meadow grass", "watermark, text"),
        *(280823642470253, 20, 8.0, "sample_dpmpp_2m", "normal", "v1-5-pruned-emaonly.ckpt"),
    )


@pytest.mark.parametrize(
    ("name", "start", "seed"),
    [
        ("night_evening_day_morning", "(best quality) (night:1.3)", 335608130539327),
        ("noisy_latents_3_subjects", "girl", 0),
        ("unclip_2pass", "(waifu, anime, exceptional", 1106257833005336),
    ],
)
def test_two_pictures_of_one_graph_are_told_by_the_pass_that_drew_both(package, name, start, seed):
    """Each graph saves a first pass and a larger second one, at denoise 0.5 to 0.54 by other words."""
    found = read(package("sd-parsers"), f"{name}_cropped.png")
    assert found.prompt.startswith(start)
    assert found.seed == seed


def test_regional_prompts_are_joined_in_the_order_of_the_graph(package):
    prompt = read(package("sd-parsers"), "night_evening_day_morning_cropped.png").prompt
    words = ["(night:1.3)", "(evening:1.2)", "(daytime:1.2)", "morning sky", "breathtaking"]
    assert sorted(words, key=prompt.index) == words


def test_animated_webp_of_comfyui(package):
    found = read(package("comfyui-workflow-templates-media-video"), "text_to_video_wan-1.webp")
    assert found.prompt == (
        "a fox moving quickly in a beautiful winter scenery nature trees sunset tracking camera"
    )
    assert (found.seed, found.steps, found.cfg) == (878361741413693, 30, 6)
    assert (found.sampler, found.model) == ("uni_pc", "wan2.1_t2v_1.3B_bf16.safetensors")


def test_clip_made_from_a_picture_alone_tells_why_it_has_no_prompt(package):
    with pytest.raises(NoPromptError, match="SVD_img2vid_Conditioning.* from no text"):
        read(package("comfyui-workflow-templates-media-video"), "txt_to_image_to_video-1.webp")


@pytest.mark.parametrize(
    ("name", "prompt", "seed"),
    [
        ("automatic1111_cropped.png", "photo of a duck", 235284042),
        ("automatic1111_cropped.jpg", "photo of a duck", 235284042),
        ("text_after_idat.png", "photo of a duck", 235284042),
        ("fooocus1_cropped.png", "a smiling goldfish", 6952411511246973023),
        ("novelai1_cropped.png", "masterpiece, best quality,  cat, space, icon", 2253955223),
        (
            *(
                "invokeai_imeta1.png",
                "digital artwork, oil painting. painterly brushstrokes, holidays,",
            ),
            3293022630,
        ),
    ],
)
def test_pictures_of_other_programs(package, name, prompt, seed):
    pytest.importorskip("sd_parsers", reason="the extra prompts is not installed")
    found = read(package("sd-parsers"), name)
    assert (found.prompt, found.seed) == (prompt, seed)


def test_folder_of_pictures_cut_to_one_pixel_is_left_out_with_that_reason(package):
    pictures = real_data.pictures("sd-parsers")
    folder = next(path.parent for path in pictures if path.name == "img2img_cropped.png")
    assert len(list(folder.glob("*.png"))) == 4
    with pytest.raises(DatasetError, match="1x1 pixels are too few"):
        read_winners(folder)


def test_the_page_says_what_the_files_say(package):
    pytest.importorskip("sd_parsers", reason="the extra prompts is not installed")
    for name in real_data.PACKAGES:
        package(name)
    written = (ROOT / "docs" / "real_files.md").read_text("utf-8")
    assert written == real_data.page(), (
        "run python scripts/real_data.py --table > docs/real_files.md"
    )
