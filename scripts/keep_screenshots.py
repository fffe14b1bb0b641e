"""Puts pictures of the page that tests kept into docs/images: `python scripts/keep_screenshots.py <folder>`.

The folder is where a run of tests/page/test_story.py kept them: SEPPO_SCREENSHOTS.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
WIDTH = 1200
SHOWN = {
    "story_1_pick_canvas_dark": "page_pick",
    "story_3_after_reload_canvas_dark": "page_train",
    "story_4_compare_canvas_dark": "page_compare",
    "story_5_score_canvas_dark": "page_score",
}
"""What the test calls a picture -> what it is called here."""


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    if missing := [name for name in SHOWN if not (folder / f"{name}.png").is_file()]:
        raise SystemExit(
            f"{folder} has no {', '.join(missing)}: run tests/page/test_story.py first"
        )
    for name, kept in SHOWN.items():
        shot = Image.open(folder / f"{name}.png").convert("RGB")
        small = shot.resize(
            (WIDTH, round(shot.height * WIDTH / shot.width)), Image.Resampling.LANCZOS
        )
        path = IMAGES / f"{kept}.webp"
        small.save(path, quality=80, method=6)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
