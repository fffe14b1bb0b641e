"""Train the demo's base model on a mix of two emoji styles that its captions do not name.

`python -m demo.pretrain --work FOLDER --steps 4000` (from the repository's folder) fetches the emoji (npm), trains on the CPU, saves every few minutes and goes
on from there when started again. More `--steps` extends a run: the rate is constant until the last fifth.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from . import captions, emoji, pictures

NAMES = Path(__file__).parent / "names.json"
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "clip_sample": False,
}
SECOND_STYLE_SHARE = 0.4
"""Share of openmoji in the mix: the base knows the style and prefers the other one."""
EMPTY_CAPTIONS = 0.1
EMA_DECAY = 0.999
SAVE_EVERY = 50


def build_network() -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=pictures.SIZE // 2,
        in_channels=12,
        out_channels=12,
        block_out_channels=(48, 80, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=captions.TEXT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def choose_names(folder: Path) -> dict[str, list[str]]:
    """120 names for winners, 150 for the test, disjoint: distinct pictures, dealt at random."""
    sets = {style: emoji.EmojiSet(folder, style) for style in emoji.PACKAGES}
    names = emoji.pick_distinct(emoji.picturable_names(folder, sets), sets, 270)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
    dealt = [names[i] for i in order]
    return {"winners": sorted(dealt[:120]), "test": sorted(dealt[120:])}


def load_training_set(
    folder: Path, names: list[str], styles: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Latents (styles, names, 12, 16, 16) and conditioning (names, tokens, width)."""
    sets = [emoji.EmojiSet(folder, style) for style in styles]
    latents = torch.stack([pictures.encode([s.image(n) for n in names]) for s in sets])
    states = captions.encode([emoji.caption(n) for n in names])
    return latents, captions.pad([states[emoji.caption(n)] for n in names])


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm-up over 100 steps, constant, then down to zero over the last fifth."""
    return peak * min(step / 100, 1, (steps - step) / (steps / 5))


def save(path: Path, **state) -> None:
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def replicate(network: torch.nn.Module, count: int) -> list[torch.nn.Module]:
    """The network and `count - 1` more that share its weights but have gradients of their own."""
    replicas = [network] + [copy.deepcopy(network) for _ in range(count - 1)]
    for replica in replicas[1:]:
        for mine, shared in zip(replica.parameters(), network.parameters(), strict=True):
            mine.data = shared.data
    return replicas


def accumulate(workers: Executor, replicas: list[torch.nn.Module], *inputs: Tensor) -> float:
    """Gradient of the mean error of `inputs` (noisy, level, text, target), a share of the batch per replica.

    One thread per replica: torch's own threads wait for each other after every operation, which costs most of
    the time where another program wants the same cores.
    """

    def share(replica: torch.nn.Module, *part: Tensor) -> float:
        noisy, level, text, target = part
        loss = F.mse_loss(replica(noisy, level, text).sample, target) / len(replicas)
        loss.backward()
        return loss.item()

    parts = zip(*(tensor.chunk(len(replicas)) for tensor in inputs), strict=True)
    losses = list(
        workers.map(lambda job: share(job[0], *job[1]), zip(replicas, parts, strict=True))
    )
    for replica in replicas[1:]:
        for extra, total in zip(replica.parameters(), replicas[0].parameters(), strict=True):
            total.grad += extra.grad
            extra.grad = None
    return sum(losses)


@dataclass(frozen=True)
class Plan:
    """How long and how to train."""

    steps: int = 4000
    batch: int = 32
    peak: float = 1e-3
    """learning rate"""
    threads: int = 2


def train(path: Path, latents: Tensor, cond: Tensor, in_both: Tensor, plan: Plan) -> dict:
    """Trained average weights; the state lies at `path` every SAVE_EVERY steps.

    Names outside `in_both` (names,) bool are shown in the first style only.
    """
    from diffusers import DDPMScheduler

    torch.manual_seed(0)
    network, schedule = build_network(), DDPMScheduler(**SCHEDULER)
    steps, batch = plan.steps, plan.batch
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.peak, weight_decay=1e-3)
    average = {k: v.clone() for k, v in network.state_dict().items()}
    start, spent = 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average, start, spent = state["average"], state["step"], state["seconds"]
    replicas, workers = replicate(network, plan.threads), ThreadPoolExecutor(plan.threads)
    began, running = time.time() - spent, 0.0
    for step in range(start + 1, steps + 1):
        draw = torch.Generator().manual_seed(step)
        style = (torch.rand(batch, generator=draw) < SECOND_STYLE_SHARE).long()
        which = torch.randint(latents.shape[1], (batch,), generator=draw)
        x0 = latents[style * in_both[which], which]
        text = cond[which] * (torch.rand(batch, 1, 1, generator=draw) >= EMPTY_CAPTIONS)
        noise = torch.randn(x0.shape, generator=draw)
        t = torch.randint(1000, (batch,), generator=draw)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, plan.peak)
        noisy, target = schedule.add_noise(x0, noise, t), schedule.get_velocity(x0, noise, t)
        running += accumulate(workers, replicas, noisy, t, text, target)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            average[name].lerp_(value, 1 - decay)
        if step % SAVE_EVERY == 0 or step == steps:
            seconds = time.time() - began
            sys.stdout.write(f"step {step} loss {running / SAVE_EVERY:.4f} {seconds:.0f} s\n")
            sys.stdout.flush()
            running = 0.0
            save(
                path,
                network=network.state_dict(),
                optimizer=optimizer.state_dict(),
                average=average,
                step=step,
                seconds=seconds,
            )
    return average


def export(average: dict, folder: Path) -> None:
    """Write the averaged weights in fp16 with both configs, as diffusers reads them."""
    from diffusers import DDPMScheduler

    network = build_network()
    network.load_state_dict(average)
    network.half().save_pretrained(folder)
    DDPMScheduler(**SCHEDULER).save_pretrained(folder)


def build(
    work: Path,
    state: Path,
    out: Path,
    names: dict[str, list[str]],
    styles: Sequence[str],
    plan: Plan,
    withhold_test: bool = False,
) -> None:
    """Train a base on two styles and write it to `out`; goes on from `state` where that exists.

    `names`: "winners" and "test". With `withhold_test` the test names are never shown in the second style.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    shown = names["winners"] + names["test"]
    latents, cond = load_training_set(work, shown, styles)
    in_both = torch.tensor([name in names["winners"] or not withhold_test for name in shown])
    state.parent.mkdir(parents=True, exist_ok=True)
    export(train(state, latents, cond, in_both, plan), out)


def main(argv: list[str] | None = None) -> None:
    plan = Plan()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for emoji and states")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--steps", type=int, default=plan.steps)
    parser.add_argument("--batch", type=int, default=plan.batch)
    parser.add_argument("--learning-rate", type=float, default=plan.peak)
    parser.add_argument("--threads", type=int, default=plan.threads)
    options = parser.parse_args(argv)
    emoji.fetch(options.work)
    if not NAMES.exists():
        NAMES.write_text(json.dumps(choose_names(options.work), indent=1) + "\n")
    plan = Plan(options.steps, options.batch, options.learning_rate, options.threads)
    names = json.loads(NAMES.read_text())
    build(options.work, options.work / "pretrain.pt", options.out, names, emoji.BASE_STYLES, plan)


if __name__ == "__main__":
    main()
