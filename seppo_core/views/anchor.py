"""What the anchor criterion sees: the winners' margins over noise levels, and the verdict on samples.

The same quantities as in training, on a fixed grid of noise levels with several noise draws each, so that
the picture is stable. Drawing the picture is plots.py's.
"""

import textwrap
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from ..adapters.lora import LoRA, Slot
from ..data import EncodedDataset
from ..denoisers import Denoiser
from ..errors import ConfigError, DatasetError
from ..method.objectives import drawn_back, make_criterion, mean_square
from ..method.references import ReferenceConfig, Snapshot
from ..randomness import derived_seed, isolated_global_rng, normal
from ..runs.run import Run
from ..settings import Section, setting
from ..training.config import SePPOConfig, config_of
from ..training.draws import level_positions
from ..training.floor import measured_roughness
from ..training.rounding import floor

OnCall = Callable[[int, int], None]
"""(calls done, calls in all): called before every network call; may raise to stop"""


@dataclass(frozen=True)
class PolicyAndReference:
    """The two weight sets that are compared, and the paths that switch between them."""

    lora: LoRA
    policy: Slot
    reference: Slot | None
    """None: the bare base"""
    overshoot: float = 1.0
    """of the policy, which is drawn back by it before it is compared (see `LossConfig.overshoot`)"""


@dataclass(frozen=True)
class AnchorMap:
    """Denoising errors of W winners at L noise levels under D noise draws each, on the CPU."""

    positions: tuple[int, ...]
    """of the winners in the dataset"""
    captions: tuple[str, ...]
    levels: Tensor
    """[L], in the denoiser's own unit"""
    policy_errors: Tensor
    """[W, L, D]; without a reference the base's"""
    reference_errors: Tensor | None
    """[W, L, D]; None without a reference"""
    roles: Tensor | None
    """[W, L, D]: what the criterion makes of each draw; None without a reference"""
    roughness: float | None = None
    """what rounding does to the margins (see rounding.py); None where that is nothing, in float32"""

    @property
    def values(self) -> Tensor:
        """[W, L, D]: winner margins, or the errors themselves where there is no reference."""
        if self.reference_errors is None:
            return self.policy_errors
        return self.policy_errors - self.reference_errors

    @property
    def means(self) -> Tensor:
        """[W, L]: mean over the draws of `values`."""
        return self.values.mean(dim=-1)

    @property
    def standard_error(self) -> Tensor:
        """[W, L], of `means`; NaN for a single draw."""
        draws = self.values.shape[-1]
        if draws == 1:
            return torch.full_like(self.means, torch.nan)
        return self.values.std(dim=-1) / draws**0.5

    @property
    def undecided(self) -> Tensor:
        """[W, L]: whether the mean margin is so near zero that rounding alone could have moved it there."""
        if self.reference_errors is None or self.roughness is None:
            return torch.zeros_like(self.means, dtype=torch.bool)
        draws = self.values.shape[-1]
        return self.means.abs() < floor(self.roughness, self.reference_errors.mean(dim=-1), draws)

    @property
    def flip_share(self) -> Tensor | None:
        """[W, L]: share of draws whose sample is not pushed away (role <= 0)."""
        return None if self.roles is None else (self.roles <= 0).float().mean(dim=-1)


def check_positions(dataset: EncodedDataset, positions: Sequence[int]) -> None:
    """DatasetError if a winner is asked for that is not there."""
    for position in positions:
        if not 0 <= position < len(dataset):
            raise DatasetError(
                f"there is no winner {position}: the dataset counts {len(dataset)}, from 0; "
                "choose fewer or earlier ones"
            )


@torch.no_grad()
def anchor_map(
    denoiser: Denoiser,
    dataset: EncodedDataset,
    positions: Sequence[int],
    compared: PolicyAndReference | None,
    *,
    levels: int,
    draws: int,
    seed: int,
    criterion: str = "sign",
    loser_weight: float = 0.5,
    batch_size: int = 4,
    on_call: OnCall = lambda done, total: None,
) -> AnchorMap:
    """Errors of the winners at `positions` under policy and reference, with the same noise for both.

    A winner's noise depends on the seed, its position, level and draw alone, not on what else is asked
    for. Runs inside the denoiser's session, with the paths of `compared` attached.
    """
    check_positions(dataset, positions)
    uniform = level_positions(levels)
    grid = [(level, draw) for level in range(levels) for draw in range(draws)]
    slots = (None,) if compared is None else (compared.reference, compared.policy)
    active = nullcontext if compared is None else compared.lora.using
    total = len(positions) * len(slots) * -(-len(grid) // batch_size)
    calls = 0
    errors = torch.empty(len(slots), len(positions), len(grid))
    for row, position in enumerate(positions):
        example = dataset[position]
        shape = tuple(example.latents.shape)
        latents = denoiser.scale_latents(example.latents[None])
        for first in range(0, len(grid), batch_size):
            part = grid[first : first + batch_size]
            noise = torch.stack([normal(shape, seed, "anchor", position, *key) for key in part])
            noisy_levels = denoiser.levels(uniform[[level for level, _ in part]])
            prepared = denoiser.prepare([example.cond] * len(part), shape)
            winners, found = latents.expand(len(part), *shape), []
            drawn_by = derived_seed(seed, "anchor", position, first)
            for slot in slots:
                on_call(calls, total)
                calls += 1
                with isolated_global_rng(drawn_by), active(slot):
                    found.append(denoiser.residuals(winners, noise, noisy_levels, prepared))
            if compared is not None and compared.overshoot > 1:
                found[1] = drawn_back(found[1], found[0], compared.overshoot)
            for side, residuals in enumerate(reversed(found)):
                errors[side, row, first : first + len(part)] = mean_square(residuals).cpu()
    errors = rearrange(errors, "side winner (level draw) -> side winner level draw", level=levels)
    roles = None
    if compared is not None:
        roles = make_criterion(criterion)(errors[1] - errors[0], loser_weight)
    return AnchorMap(
        positions=tuple(positions),
        captions=tuple(dataset[position].caption for position in positions),
        levels=denoiser.levels(uniform).float().cpu(),
        policy_errors=errors[0],
        reference_errors=None if compared is None else errors[1],
        roles=roles,
    )


@dataclass(frozen=True)
class Verdict:
    """A reference sample and what the criterion would do with it over the grid of levels and draws."""

    sample: Tensor
    """[C, ...] latents in the network's scale"""
    losing: float
    """share of the grid where it is pushed away; the three shares sum to 1"""
    learned: float
    left_out: float

    @property
    def word(self) -> str:
        """What happens to it most often; a tie goes to the milder."""
        shares = {"left out": self.left_out, "is learned from": self.learned, "loses": self.losing}
        return max(shares, key=shares.__getitem__)


@torch.no_grad()
def verdicts(
    denoiser: Denoiser,
    dataset: EncodedDataset,
    anchors: AnchorMap,
    compared: PolicyAndReference,
    sampling: ReferenceConfig,
    seed: int,
    on_call: OnCall = lambda done, total: None,
) -> list[Verdict]:
    """One sample per winner of `anchors`, drawn by the reference for the winner's own conditioning."""
    assert anchors.roles is not None
    found = []
    for row, position in enumerate(anchors.positions):
        on_call(row, len(anchors.positions))
        example = dataset[position]
        key = (seed, "anchor", position, "sample")
        noise = normal((1, *example.latents.shape), *key)
        with compared.lora.using(compared.reference):
            sample = denoiser.sample([example.cond], noise, sampling, derived_seed(*key))
        roles = anchors.roles[row]
        found.append(
            Verdict(
                sample=sample[0].float().cpu(),
                losing=float((roles > 0).float().mean()),
                learned=float((roles < 0).float().mean()),
                left_out=float((roles == 0).float().mean()),
            )
        )
    return found


def first_entry(steps: list[int], step: int) -> int:
    """The weights that the run started from."""
    return steps[0]


def last_entry(steps: list[int], step: int) -> int:
    """The newest snapshot."""
    return steps[-1]


def entry_of_step(steps: list[int], step: int) -> int:
    """The snapshot taken after the given step."""
    if step not in steps:
        raise ConfigError(f"the run keeps no snapshot of step {step}; it keeps {steps}")
    return step


ENTRIES: dict[str, Callable[[list[int], int], int]] = {
    "initial": first_entry,
    "latest": last_entry,
    "step": entry_of_step,
}
"""Which pool entry a picture compares with."""


@dataclass(frozen=True)
class PreviewSettings(Section):
    winners: int = setting(4, "How many winners to show, one per row.", least=1, most_shown=16)
    first: int = setting(
        0,
        "The first winner to show, counted from 0 in the dataset's order.",
        least=0,
        most_shown=1_000_000,
    )
    levels: int = setting(
        8,
        "How many noise levels to measure, one per column, evenly over the schedule.",
        least=2,
        most_shown=12,
    )
    draws: int = setting(
        4,
        "Noise draws averaged in every cell. More take longer and make the picture "
        "steadier; the number after \N{PLUS-MINUS SIGN} tells how steady it is.",
        least=1,
        most_shown=64,
    )
    reference: str = setting(
        "initial",
        "Which checkpoint of the run to compare with: the initial weights, the latest snapshot, or the one "
        "after the step below. Read only with a run.",
        choices=ENTRIES,
    )
    reference_step: int = setting(
        0, "The snapshot to compare with when reference is 'step'.", least=0, most_shown=10_000_000
    )
    criterion: str = ""
    """empty: the run's own"""
    draw_samples: bool = setting(
        True,
        "Draw one reference sample per winner and show it with its verdict. Off is faster. Read only with a run.",
    )
    batch_size: int = setting(
        4,
        "Noisy images that go through the model at once. Lower it if memory is short.",
        least=1,
        most_shown=64,
    )
    seed: int = setting(
        0,
        "The same seed gives the same noise, so that two pictures can be compared.",
        least=0,
        most_shown=2**63 - 1,
    )

    def positions(self, dataset: EncodedDataset) -> range:
        """Fewer than asked for where the dataset ends; DatasetError where it has ended before."""
        check_positions(dataset, [self.first])
        return range(self.first, min(self.first + self.winners, len(dataset)))


@dataclass(frozen=True)
class Preview:
    """What the picture shows."""

    anchors: AnchorMap
    verdicts: list[Verdict]
    """one per winner, or none"""
    latents: list[Tensor]
    """the winners, [1, C, ...] in the network's scale"""
    title: str
    subtitle: str


def preview(
    denoiser: Denoiser,
    dataset: EncodedDataset,
    run: Run | None,
    settings: PreviewSettings,
    sampling: ReferenceConfig | None = None,
    on_call: OnCall = lambda done, total: None,
) -> Preview:
    """The run's aligned weights against an entry of its pool; without a run the base's errors.

    `sampling` replaces the run's own way of drawing samples. Whatever does not fit together is raised
    before the network is moved to the device.
    """
    positions = settings.positions(dataset)
    config = config_of(run.about()) if run else SePPOConfig()
    drawing = settings.draw_samples and run is not None
    sampling = sampling or config.references
    if not drawing:  # nothing is drawn, so no negative conditioning is needed
        sampling = replace(sampling, guidance_scale=1.0)
    criterion = settings.criterion or config.loss.criterion
    make_criterion(criterion)
    entry, weights = None, None
    if run is not None:
        run.require_base(denoiser.base_fingerprint())
        weights = run.weights()  # first, for it says so where no checkpoint is whole
        chosen = ENTRIES[settings.reference]
        entry = run.snapshot(chosen(run.snapshot_steps(), settings.reference_step))
    denoiser.check(dataset, config.compute, sampling, config.loss.paired)
    grid = {name: getattr(settings, name) for name in ("levels", "draws", "seed", "batch_size")}
    grid |= {"criterion": criterion, "loser_weight": config.loss.loser_weight, "on_call": on_call}
    found: list[Verdict] = []
    with denoiser.session(config.compute):
        winners = [denoiser.scale_latents(dataset[i].latents[None]).cpu() for i in positions]
        if entry is None or weights is None:
            anchors = anchor_map(denoiser, dataset, positions, None, **grid)
        else:
            lora = LoRA(denoiser.network, config.lora, config.seed, denoiser.device)
            lora.load(weights)
            overshoot = config.loss.overshoot
            compared = PolicyAndReference(lora, lora.policy, lora.slot(entry.weights), overshoot)
            with lora.attached():
                anchors = anchor_map(denoiser, dataset, positions, compared, **grid)
                rough = measured_roughness(denoiser, lora, dataset, entry.weights)
                anchors = replace(anchors, roughness=rough and rough / overshoot)
                if drawing:
                    found = verdicts(
                        denoiser, dataset, anchors, compared, sampling, settings.seed, on_call
                    )
    return Preview(anchors, found, winners, *_titles(denoiser, run, entry, criterion))


def _titles(
    denoiser: Denoiser, run: Run | None, entry: Snapshot | None, criterion: str
) -> tuple[str, str]:
    if run is None or entry is None:
        return f"How well {denoiser.base_name()} explains the winners", ""
    kind = "the initial weights" if entry.step == 0 else f"the snapshot of step {entry.step}"
    return (
        f"{run.name}: what the anchor sees",
        f"policy of step {run.step()} against {kind}, criterion {criterion}",
    )


def summary(shown: Preview) -> str:
    """The picture in words, a line per winner."""
    lines = [shown.title, shown.subtitle] if shown.subtitle else [shown.title]
    anchors = shown.anchors
    for row, position in enumerate(anchors.positions):
        mean = float(anchors.values[row].mean())
        if anchors.roles is None:
            text = f"denoising error {mean:.4g}"
        else:
            flips = float((anchors.roles[row] <= 0).float().mean())
            text = f"winner margin {mean:+.3g}, flips {flips:.0%}"
        if shown.verdicts:
            text += f", its sample {shown.verdicts[row].word}"
        caption = textwrap.shorten(anchors.captions[row], 80, placeholder=" ...")
        lines.append(f"winner {position} ({caption}): {text}")
    if count := int(anchors.undecided.sum()):
        cells = anchors.undecided.numel()
        lines.append(
            f"{count} of {cells} cells are undecided: rounding alone could make such margins"
        )
    return "\n".join(lines)
