"""Makes the README's pictures from the demo's model: `.venv/bin/python scripts/make_pictures.py`."""

from __future__ import annotations

import importlib
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from seppo_core import train
from seppo_core.__main__ import load_demo
from seppo_core.runs.run import Run
from seppo_core.views.anchor import PreviewSettings, preview
from seppo_core.views.plots import heat_map

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
COLUMNS, ROWS, CELL = 12, 3, 72
STEPS_SEEN = 30


def main() -> None:
    load_demo()
    studio = importlib.import_module("seppo_demo.studio")
    pictures = importlib.import_module("seppo_demo.pictures")
    run_module = importlib.import_module("seppo_demo.run")
    IMAGES.mkdir(parents=True, exist_ok=True)
    names, texts = studio.read_names(), studio.Texts()
    policy, dataset = studio.load_policy(), studio.read_dataset(texts)
    shown = names.test[: COLUMNS * ROWS]
    before = studio.draw(policy, texts, shown, studio.EVALUATION)
    with tempfile.TemporaryDirectory() as folder:
        config = studio.settings(run_module.STEPS, seed=0)
        config = replace(config, run=replace(config.run, directory=f"{folder}/emoji demo"))
        for report in train(policy, dataset, config):
            sys.stdout.write(f"step {report.step}/{report.steps}\n")
        after = studio.draw(policy, texts, shown, studio.EVALUATION)
        seen = preview(
            studio.load_policy(),
            dataset,
            Run(config.run.directory),
            PreviewSettings(reference="step", reference_step=STEPS_SEEN, draws=8, batch_size=32),
        )
    winners = pictures.to_images(pictures.decode(torch.cat(seen.latents)))
    samples = pictures.to_images(pictures.decode(torch.stack([v.sample for v in seen.verdicts])))
    heat_map(seen.anchors, winners, samples, seen.verdicts, seen.title, seen.subtitle).save(
        IMAGES / "anchor_preview.png"
    )
    both = [pictures.to_images(pixels) for pixels in (before, after)]
    rows = [half[i : i + COLUMNS] for i in range(0, len(shown), COLUMNS) for half in both]
    pictures.sheet(rows, CELL).save(IMAGES / "demo_before_after.png")


if __name__ == "__main__":
    main()
