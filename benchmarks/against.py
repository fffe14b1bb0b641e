"""A training step of this tree beside the same step of another commit: `python benchmarks/against.py COMMIT`.

A thin SD-like UNet of diffusers, 16x16 latents, float32, batch 2, one thread. Both take turns, each in a process of
its own, whose processor time is counted; the loss of the last step tells whether they compute the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, WARM_UP, STEPS = 5, 4, 24
WAYS = {"a sample each step": 1, "samples for 4 steps": 4}


def measured() -> dict[str, list[float]]:
    """Way -> processor milliseconds a step, and the last loss; of the seppo_core that is imported."""
    import time
    from dataclasses import replace

    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel

    from seppo_core import SePPOConfig, train
    from seppo_core.data import Example, in_memory
    from seppo_core.denoisers.diffusers import DiffusersDenoiser
    from seppo_core.randomness import normal

    torch.set_num_threads(1)
    found = {}
    for way, reuse in WAYS.items():
        torch.manual_seed(0)
        network = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(64, 128),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=2,
            cross_attention_dim=128,
            attention_head_dim=8,
        ).requires_grad_(False)
        policy = DiffusersDenoiser(network, DDPMScheduler())
        dataset = in_memory(
            [
                Example(normal((4, 16, 16), "w", i), {"embeds": normal((77, 128), "e", i)}, "")
                for i in range(4)
            ]
        )
        plain = SePPOConfig()
        config = replace(
            plain,
            steps=WARM_UP + STEPS,
            batch_size=2,
            references=replace(plain.references, reuse=reuse, sampling_steps=4),
            run=replace(plain.run, preview_every=0),
        )
        for report in train(policy, dataset, config):
            if report.step == WARM_UP:
                started = time.process_time()
        found[way] = [1000 * (time.process_time() - started) / STEPS, report.loss]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?")
    commit = parser.parse_args().commit
    if commit is None:
        print(json.dumps(measured()))
        return
    with tempfile.TemporaryDirectory() as home:
        other = Path(home) / "other"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(other), commit], check=True)
        try:
            rounds = [[one(ROOT), one(other)] for _ in range(ROUNDS)]
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)
    for way in WAYS:
        now, before = ([pair[side][way][0] for pair in rounds] for side in (0, 1))
        shares = [100 * (n / b - 1) for n, b in zip(now, before, strict=True)]
        same = len({pair[side][way][1] for pair in rounds for side in (0, 1)}) == 1
        print(
            f"{way}: {statistics.median(now):.1f} ms now, {statistics.median(before):.1f} before; "
            f"rounds {min(shares):+.1f} to {max(shares):+.1f} %, median {statistics.median(shares):+.1f} %; "
            f"{'the same loss' if same else 'ANOTHER LOSS'}"
        )


def one(tree: Path) -> dict[str, list[float]]:
    command = [sys.executable, str(Path(__file__))]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
