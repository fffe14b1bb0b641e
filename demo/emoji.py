"""Vector emoji as captioned images: fetch the packages, rasterise, pick names. Only the scripts that build assets need this."""

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

PACKAGES = {
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "openmoji": "@iconify-json/openmoji@1.2.29",
    "noto": "@iconify-json/noto@1.2.9",
    "fluent": "@iconify-json/fluent-emoji-flat@1.2.6",
}
BASE_STYLES = ("twemoji", "openmoji")
OTHER_STYLES = ("noto", "fluent")
CATEGORIES = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
LOOKALIKES = re.compile(
    r"clock|thirty|keycap|flag|skin|quarter-moon|gibbous|new-moon|japanese|-face$|person|speaker-|mobile-phone-"
)
"""Names dropped before picking: families of near-equal pictures, and what is drawn mostly as text."""


def fetch(folder: Path, packages: Mapping[str, str] = PACKAGES) -> None:
    """Download and unpack the packages that are not in `folder` yet (needs npm)."""
    folder.mkdir(parents=True, exist_ok=True)
    for style, package in packages.items():
        if (folder / style / "icons.json").exists():
            continue
        packed = subprocess.run(
            ["npm", "pack", "--silent", package],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
        archive = folder / packed.stdout.split()[-1]
        with tarfile.open(archive) as tar:
            for member in ("icons.json", "metadata.json"):
                target = folder / style / member
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(tar.extractfile(f"package/{member}").read())
        archive.unlink()


class EmojiSet:
    """One style: names to pictures."""

    def __init__(self, folder: Path, style: str):
        self.style = style
        self._set = json.loads((folder / style / "icons.json").read_text())
        self.names = frozenset(self._set["icons"])

    def svg(self, name: str) -> str:
        icon = self._set["icons"][name]
        width, height = (icon.get(side, self._set.get(side, 16)) for side in ("width", "height"))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}">{icon["body"]}</svg>'
        )

    def image(self, name: str, size: int = 32) -> Image.Image:
        """The picture on white, `size` pixels square."""
        import resvg_py

        png = resvg_py.svg_to_bytes(svg_string=self.svg(name), width=size, height=size)
        drawn = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        white = Image.new("RGBA", drawn.size, "white")
        return Image.alpha_composite(white, drawn).convert("RGB")


def caption(name: str) -> str:
    return name.replace("-", " ")


def common_names(sets: dict[str, EmojiSet]) -> list[str]:
    """Names that every style draws, sorted."""
    return sorted(frozenset.intersection(*(one.names for one in sets.values())))


def picturable_names(folder: Path, sets: dict[str, EmojiSet]) -> list[str]:
    """Common names of things, without families of lookalikes."""
    categories = json.loads((folder / "twemoji" / "metadata.json").read_text())["categories"]
    things = {name for category in CATEGORIES for name in categories[category]}
    return [n for n in common_names(sets) if n in things and not LOOKALIKES.search(n)]


def pick_distinct(
    names: list[str], sets: dict[str, EmojiSet], count: int, grid: int = 8
) -> list[str]:
    """`count` names, each the one farthest from all before it by coarse thumbnails of both base styles."""
    drawn = (sets[style].image(name) for name in names for style in BASE_STYLES)
    small = [np.asarray(one.resize((grid, grid), Image.Resampling.BOX), float) for one in drawn]
    layout = "(name style) height width colour -> name (style height width colour)"
    thumbs = rearrange(small, layout, style=len(BASE_STYLES))
    picked = [int(np.abs(thumbs - thumbs.mean(0)).sum(1).argmin())]
    distance = np.linalg.norm(thumbs - thumbs[picked[0]], axis=1)
    while len(picked) < count:
        picked.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(thumbs - thumbs[picked[-1]], axis=1))
    return [names[i] for i in picked]
