"""What the page's panel costs a step: `python benchmarks/panel_cost.py`.

On every ComfyUI found: 5,000 steps of made-up reports go through the recorder as SePPO Train uses it, with four winners each and
a picture every tenth step, into a run directory on the local disk; messages are put together but no page is open.
"""

from __future__ import annotations

import time

from each_host import on_each_host, version_of

STEPS, WINNERS, PREVIEW_EVERY, SIDE = 5000, 4, 10, 512


def measure_all(host, rounds: int) -> None:
    import thin
    from PIL import Image

    report, data = host.core("runs.report"), host.core("data")
    latents = thin.thin_latent("sd15", batch=WINNERS)["samples"]
    cond = thin.thin_conditioning("sd15")
    dataset = data.in_memory([data.Example(one, cond, "a caption") for one in latents])
    run = host.core("runs.run").Run(host.output / "seppo" / "panel_cost")
    picture = Image.effect_noise((SIDE, SIDE), 80)
    examples = tuple(report.ExampleReport(i, i / WINNERS, 1.0, -1e-3, 1e-3) for i in range(WINNERS))
    plain, shown = [], []
    with host.module("nodes.recorder").Recorder(run, dataset, "panel", STEPS) as recorder:
        for step in range(1, STEPS + 1):
            preview = None if step % PREVIEW_EVERY else picture
            made = made_up(report, step, examples)
            began = time.perf_counter()
            recorder.step(made, preview)
            (shown if preview else plain).append(time.perf_counter() - began)
    version = version_of(host)
    size = sum(file.stat().st_size for file in recorder.pictures.folder.iterdir())
    print(
        f"ComfyUI {version}: {1000 * sum(plain) / len(plain):.2f} ms a step, "
        f"{1000 * sum(shown) / len(shown):.1f} ms one with a picture of {SIDE} px; "
        f"pictures of {STEPS} steps: {size / 2**20:.1f} MiB",
        flush=True,
    )


def made_up(report, step: int, examples: tuple):
    return report.StepReport(
        step=step,
        **{name: 0.1234 for name in report.NOT_APPLIED},
        lr=1e-4,
        reference_step=0,
        seconds=1.0,
        held_out_margin=None,
        steps=STEPS,
        examples=examples,
        caption="a caption",
    )


if __name__ == "__main__":
    on_each_host(__file__, __doc__, measure_all)
