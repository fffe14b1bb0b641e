"""Every kind of stored picture becomes plain upright RGB, and RGB of any size the tensor that was asked for."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from seppo_core.data.pictures import as_rgb, open_image, picture_from_tensor
from seppo_core.data.prepare import ASPECTS, FITS, ClipSelection, Preparation, is_clip, prepare
from seppo_core.errors import ConfigError, DatasetError

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def decoded(image: Image.Image, kind: str, background: str = "white", **options) -> np.ndarray:
    """What a file of this kind that holds `image` becomes: uint8 [H, W, 3]."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    with open_image(file) as stored:
        return np.array(as_rgb(stored, background))


def grey(array: np.ndarray, kind: str, **options) -> list[int]:
    """The first row of what a grey picture becomes; its channels are equal."""
    pixels = decoded(Image.fromarray(array), kind, **options)
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


def row(*values: float, dtype: type) -> np.ndarray:
    """[8, 8] whose rows begin with `values` and go on with the last one."""
    return np.tile(np.array([*values, *[values[-1]] * (8 - len(values))], dtype=dtype), (8, 1))


ORIENTED = {
    # Where EXIF says that the stored rows and columns begin, the red corner was drawn at the top left
    1: (0, 0),
    2: (0, -1),
    3: (-1, -1),
    4: (-1, 0),
    5: (0, 0),
    6: (-1, 0),
    7: (-1, -1),
    8: (0, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", ORIENTED)
def test_pictures_are_turned_as_exif_asks(kind, orientation):
    # 16 wide and 8 high when upright, with a red quarter at the top left; 5 to 8 swap rows and columns
    height, width = (8, 16) if orientation < 5 else (16, 8)
    stored = np.full((height, width, 3), 255, dtype=np.uint8)
    down, across = ORIENTED[orientation]
    rows = slice(0, height // 2) if down == 0 else slice(height // 2, height)
    columns = slice(0, width // 2) if across == 0 else slice(width // 2, width)
    stored[rows, columns] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decoded(Image.fromarray(stored), kind, exif=exif, **QUALITY.get(kind, {})).astype(int)
    assert pixels.shape == (8, 16, 3)
    red = (pixels[..., 0] - pixels[..., 1]) > 128
    assert red[1:3, 1:7].all()
    assert not red[5:].any()
    assert not red[:, 9:].any()


QUALITY = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16", "CMYK", "I", "F"])
def test_every_kind_of_pixel_is_turned(mode):
    # 8 wide and 16 high as stored, its first row black; orientation 6: that row is the right column
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("L", (8, 16), 255)
    image.paste(0, (0, 0, 8, 1))
    image = (
        Image.fromarray(np.array(image, dtype=np.uint16) * 257)
        if mode == "I;16"
        else image.convert(mode)
    )
    kind = "TIFF" if mode in ("CMYK", "I", "F") else "PNG"
    pixels = decoded(image, kind, exif=exif)
    assert pixels.shape == (8, 16, 3)
    assert (pixels[:, -1] == 0).all()
    assert (pixels[:, :-1] == 255).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_exif_that_cannot_be_read_turns_nothing():
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    assert decoded(image, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")[0, 0].tolist() == [1, 2, 3]


def test_alpha_is_composed_over_the_background():
    image = Image.new("RGBA", (8, 8), (0, 100, 200, 51))
    # 51 of 255 is a fifth: 0.2 * (0, 100, 200) + 0.8 * background
    assert decoded(image, "PNG")[0, 0].tolist() == [204, 224, 244]
    assert decoded(image, "PNG", "black")[0, 0].tolist() == [0, 20, 40]
    assert decoded(image, "PNG", "#ff0000")[0, 0].tolist() == [204, 20, 40]


def test_grey_with_alpha_is_composed_over_the_background():
    image = Image.new("LA", (8, 8), (100, 51))
    assert decoded(image, "PNG", "black")[0, 0].tolist() == [20, 20, 20]


def test_transparent_colour_of_a_palette_shows_the_background():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    pixels = decoded(image, "PNG", "#0000ff", transparency=0)
    assert pixels[0, 0].tolist() == [0, 0, 255]
    assert pixels[0, 1].tolist() == [40, 50, 60]


def test_transparent_colour_of_rgb_and_of_grey_shows_the_background():
    coloured = Image.new("RGB", (8, 8), (1, 2, 3))
    assert decoded(coloured, "PNG", transparency=(1, 2, 3))[0, 0].tolist() == [255, 255, 255]
    plain = Image.new("L", (8, 8), 7)
    assert decoded(plain, "PNG", "black", transparency=7)[0, 0].tolist() == [0, 0, 0]


def test_sixteen_bit_grey_is_scaled_by_257_however_dark_it_is():
    # 257 * 255 = 65535
    for kind in ("PNG", "TIFF"):
        assert grey(row(0, 257, 25700, 65535, dtype=np.uint16), kind)[:4] == [0, 1, 100, 255]
        assert grey(row(0, 129, 200, dtype=np.uint16), kind)[:3] == [0, 1, 1]


def test_whole_numbers_of_32_bit_are_scaled_by_the_white_that_fits():
    assert grey(row(0, 100, 255, dtype=np.int32), "TIFF")[:3] == [0, 100, 255]
    assert grey(row(-5, 257, 65535, dtype=np.int32), "TIFF")[:3] == [0, 1, 255]
    assert grey(row(0, 2**30, 2**31 - 1, dtype=np.int32), "TIFF")[:3] == [0, 128, 255]


def test_floats_are_scaled_by_the_white_that_fits():
    assert grey(row(-0.5, 0.2, 1, dtype=np.float32), "TIFF")[:3] == [0, 51, 255]
    assert grey(row(0, 0.5, 0.5, dtype=np.float32), "TIFF")[:2] == [0, 128]
    assert grey(row(0, 51, 200, dtype=np.float32), "TIFF")[:3] == [0, 51, 200]
    assert grey(row(0, 257, 65535, dtype=np.float32), "TIFF")[:3] == [0, 1, 255]
    assert grey(row(0, 1e5, 2e5, dtype=np.float32), "TIFF")[:3] == [0, 128, 255]


def test_floats_that_are_no_numbers_are_refused():
    with pytest.raises(DatasetError, match="NaN or infinite pixels; save it as 8-bit"):
        grey(row(0, np.nan, dtype=np.float32), "TIFF")


def test_cmyk_becomes_rgb():
    for kind in ("TIFF", "JPEG"):
        options = QUALITY.get(kind, {})
        assert decoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), kind, **options)[0, 0, 0] == 255
        cyan = decoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), kind, **options)[0, 0]
        assert np.abs(cyan.astype(int) - (0, 255, 255)).max() <= 2
        assert decoded(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), kind, **options)[0, 0].max() <= 2


def test_greyscale_and_one_bit_have_three_equal_channels():
    assert grey(row(0, 77, 255, dtype=np.uint8), "PNG")[:3] == [0, 77, 255]
    dots = Image.new("1", (8, 8), 0)
    dots.putpixel((1, 0), 1)
    for kind in ("PNG", "TIFF", "BMP"):
        assert decoded(dots, kind)[0, :3].tolist() == [[0] * 3, [255] * 3, [0] * 3]


def test_area_is_kept_and_sides_are_multiples():
    preparation = Preparation(512, 64)
    # 512 * sqrt(3/2) = 627 -> 640 (10 * 64), 512 / sqrt(3/2) = 418 -> 448 (7 * 64; 6.53 rounds up)
    assert preparation.size((3000, 2000)) == (640, 448)
    assert preparation.size((2000, 3000)) == (448, 640)
    assert preparation.size((1024, 1024)) == (512, 512)


def test_smaller_pictures_are_not_enlarged_beyond_one_multiple():
    preparation = Preparation(512, 64)
    assert preparation.size((200, 300)) == (192, 256)
    assert preparation.size((1, 1)) == (64, 64)


def test_extreme_proportions_are_cropped_to_four_to_one():
    preparation = Preparation(512, 64)
    assert preparation.size((8000, 600)) == (1024, 256)
    assert preparation.size((20000, 1)) == (64, 64)


def test_square_mode_gives_a_square_of_the_nearest_multiple():
    assert Preparation(500, 64, "square").size((100, 3000)) == (512, 512)


def test_buckets_are_few_and_the_nearest_is_taken():
    preparation = Preparation(1024, 64, "buckets")
    # 16:9: 1024 * 4/3 = 1365 -> 21.3 -> 21 * 64 = 1344, and 1024 * 3/4 = 768
    assert preparation.size((1920, 1080)) == (1344, 768)
    assert preparation.size((1080, 1920)) == (768, 1344)
    assert preparation.size((4000, 4000)) == (1024, 1024)
    # between 1024x1024 and 1152x896 (ratio 1.286) the middle is the root of 1.286: 1.134
    assert preparation.size((1133, 1000)) == (1024, 1024)
    assert preparation.size((1135, 1000)) == (1152, 896)
    sources = itertools.product(range(50, 2000, 130), repeat=2)
    sizes = {preparation.size(source) for source in sources}
    assert len(sizes) <= 2 * len(ASPECTS) - 1
    assert all(abs(w * h / 1024**2 - 1) < 0.08 and w % 64 == h % 64 == 0 for w, h in sizes)


def test_buckets_enlarge_small_pictures_so_that_a_batch_has_one_shape():
    preparation = Preparation(512, 64, "buckets")
    assert preparation.size((30, 30)) == preparation.size((3000, 3000)) == (512, 512)
    assert preparation.size((20000, 1)) == (896, 320)


def test_the_models_step_is_taken_where_no_multiple_is_set():
    assert Preparation(512).with_step(16).multiple == 16
    assert Preparation(512).with_step(None).multiple == 64
    assert Preparation(512, 8).with_step(16).multiple == 8
    assert Preparation(512).size((300, 200)) == Preparation(512, 64).size((300, 200)) == (256, 192)
    assert Preparation(512).with_step(16).size((300, 200)) == (288, 192)
    with pytest.raises(ConfigError, match="resolution 32 is smaller than multiple 64"):
        Preparation(32).with_step(None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "stretch"}, "mode: unknown 'stretch'.*buckets.*keep aspect.*square"),
        ({"fit": "cut"}, "fit: unknown 'cut'.*crop top"),
        ({"resolution": 32, "multiple": 64}, "resolution 32 is smaller than multiple 64"),
        ({"resolution": 0}, "resolution must be at least 1, got 0"),
        ({"multiple": -1}, "multiple must not be negative, got -1"),
        ({"background": "whitish"}, "unknown background 'whitish'"),
        ({"background": ""}, "unknown background ''"),
        ({"background": "#ff000080"}, "unknown background '#ff000080'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Preparation(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "clip.count must be at least 1"),
        ({"stride": 0}, "clip.stride must be at least 1"),
        ({"fps": -1.0}, "clip.fps must not be negative"),
        ({"fps": float("nan")}, "clip.fps must not be negative, got nan"),
    ],
)
def test_frames_that_cannot_be_taken_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ClipSelection(**settings)


def stripes(height: int, width: int, down: bool) -> torch.Tensor:
    """Four stripes of one colour each: black, red, green, blue; from the top down or from the left."""
    colours = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    lines = colours.repeat_interleave((height if down else width) // 4, 0)
    return (lines[:, None] if down else lines[None]).expand(height, width, 3)


def fitted(image: torch.Tensor, fit: str, size: int = 16, **settings) -> np.ndarray:
    """A picture of sizes that need no filter, brought to a square; int [H, W, 3]."""
    picture = picture_from_tensor(image, "a")
    prepared = prepare(picture, Preparation(size, size, "square", fit, **settings))
    assert prepared.shape == (size, size, 3)
    assert prepared.dtype == torch.float32
    return (prepared * 255).round().int().numpy()


def test_what_sticks_out_is_cropped_evenly():
    wide = fitted(stripes(16, 32, down=False), "crop")
    assert wide[0, 0].tolist() == [255, 0, 0]
    assert wide[0, -1].tolist() == [0, 255, 0]
    tall = fitted(stripes(32, 16, down=True), "crop")
    assert tall[0, 0].tolist() == [255, 0, 0]
    assert tall[-1, 0].tolist() == [0, 255, 0]


def test_the_top_of_tall_pictures_is_kept_on_request():
    tall = fitted(stripes(32, 16, down=True), "crop top")
    assert tall[0, 0].tolist() == [0, 0, 0]
    assert tall[-1, 0].tolist() == [255, 0, 0]
    wide = fitted(stripes(16, 32, down=False), "crop top")
    assert wide[0, 0].tolist() == [255, 0, 0]


def test_padding_shows_the_whole_picture_on_the_background():
    wide = fitted(torch.zeros(8, 16, 3), "pad", background="#102030")
    # 16x8 in 16x16: four rows of background above and below
    assert (wide[4:12] == 0).all()
    assert (wide[:4] == (16, 32, 48)).all()
    assert (wide[12:] == (16, 32, 48)).all()
    tall = fitted(torch.zeros(16, 8, 3), "pad")
    assert (tall[:, :4] == 255).all()
    assert (tall[:, 4:12] == 0).all()


def test_stretching_shows_the_whole_picture_in_other_proportions():
    # shrunk to half its width by a filter: the middle of each stripe keeps its colour
    wide = fitted(stripes(32, 64, down=False), "stretch", 32)
    assert np.abs(wide[0, 4] - (0, 0, 0)).max() <= 8
    assert np.abs(wide[0, 28] - (0, 0, 255)).max() <= 8


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (33, 31)])
def test_pictures_of_any_proportions_fit(fit, shape):
    picture = picture_from_tensor(torch.ones(*shape, 3), "a")
    for mode in ("keep aspect", "buckets", "square"):
        prepared = prepare(picture, Preparation(64, 16, mode, fit))
        assert prepared.shape[0] % 16 == prepared.shape[1] % 16 == 0
        assert prepared.min() == prepared.max() == 1


class Frames:
    """A clip whose frame number n has the grey value n."""

    name = "a.mp4"

    def __init__(self, length: int, size: tuple[int, int] = (32, 16)) -> None:
        self.length, self.size = length, size

    def frames(self, selection: ClipSelection, background: str) -> list[Image.Image]:
        numbers = range(self.length)[:: selection.stride][: selection.count]
        return [Image.new("RGB", self.size, (n, n, n)) for n in numbers]

    def content(self) -> str:
        return f"clip {self.length}"


def test_the_frames_of_a_clip_are_prepared_alike():
    preparation = Preparation(16, 8, clip=ClipSelection(5, stride=2))
    prepared = prepare(Frames(20), preparation)
    # 16 * sqrt(2) = 22.6 -> 24 and 16 / sqrt(2) = 11.3 -> 8, to multiples of 8
    assert prepared.shape == (5, 8, 24, 3)
    assert (prepared[:, 0, 0, 0] * 255).round().tolist() == [0, 2, 4, 6, 8]
    assert is_clip(Frames(1))
    assert not is_clip(picture_from_tensor(torch.zeros(8, 8, 3), "a"))


def test_a_losing_picture_gets_the_shape_of_its_winner():
    preparation = Preparation(16, 8)
    shown = prepare(picture_from_tensor(torch.zeros(8, 32, 3), "a"), preparation)
    losing = picture_from_tensor(torch.ones(40, 40, 3), "b")
    assert prepare(losing, preparation, shown).shape == shown.shape == (8, 32, 3)


def test_a_losing_clip_of_another_length_is_refused():
    preparation = Preparation(16, 8)
    shown = prepare(Frames(9), preparation)
    assert prepare(Frames(9, (50, 50)), preparation, shown).shape == shown.shape
    with pytest.raises(DatasetError, match="a.mp4: has 5 frames, its winner 9 frames"):
        prepare(Frames(5), preparation, shown)
    single = picture_from_tensor(torch.ones(40, 40, 3), "b")
    with pytest.raises(DatasetError, match="b: has a single image, its winner 9 frames"):
        prepare(single, preparation, shown)
