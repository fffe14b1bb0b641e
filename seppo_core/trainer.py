"""The training loop: `train` yields a report after every optimizer step and owns nothing of its host.

The steps of one window (windows.py) share reference, winners and samples; every step has its own noise
and levels, shared by winner and sample, by policy and reference. Every random number derives from
(seed, step or window, rank, index of the winner).
"""

import hashlib
import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Optimizer

from .checkpoint import Run, TrainingState, check_writable, differences
from .config import SePPOConfig
from .data import EncodedDataset
from .denoisers import Denoiser
from .errors import CheckpointError, DatasetError, NonFiniteLossError, SePPOError
from .export import describe, load_lora, save_run_weights
from .held_out import HeldOut
from .lora import LoRA, check_fit, find_paths
from .loss import DenoisingErrors, seppo_loss
from .optim import (
    evaluation_weights,
    learning_rate,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
)
from .randomness import generator, normal
from .references import ReferencePool, Snapshot
from .report import StepReport, statistics
from .windows import Window, Windows

FIRST_LOSS_SCALE = 2.0**12
STEPS_TO_DOUBLE_SCALE = 200

log = logging.getLogger(__name__)


def run_description(
    policy: Denoiser, dataset: EncodedDataset, config: SePPOConfig
) -> dict[str, Any]:
    """What run.json says: two runs are the same run if they agree here (see checkpoint.differences)."""
    from . import __version__

    initial = config.run.initial_weights
    digest = hashlib.sha256(Path(initial).read_bytes()).hexdigest() if initial else None
    return {
        "version": __version__,
        "family": policy.family,
        "base": policy.identity(),
        "base_name": policy.base_name(),
        "conditions": policy.conditions(config.references.guidance_scale != 1.0),
        "dataset": dataset.identity,
        "winners": len(dataset),
        "initial": digest,
        "config": asdict(config),
    }


def train(policy: Denoiser, dataset: EncodedDataset, config: SePPOConfig) -> Iterator[StepReport]:
    """Align `policy` to the winners; continue the run directory if it holds this very run.

    Everything a user can get wrong is raised here, before the first step is asked for: nothing is moved
    or written yet. Closing the iterator saves what was reached and restores the host's model; the
    aligned weights stay in `policy.lora`.
    """
    if config.loss.paired and not dataset.paired:
        raise DatasetError(
            "training on pairs (preset dpo) needs a losing image for every winner; "
            "give losing images or choose another preset"
        )
    policy.check(dataset, config)
    if dataset.held_out is not None:
        policy.check(dataset.held_out, config)
    make_optimizer([torch.nn.Parameter(torch.zeros(1))], config.optimizer)  # is its package there?
    paths = find_paths(policy.network, config.lora)
    if config.run.initial_weights:
        check_fit(load_lora(Path(config.run.initial_weights), config.lora.scale)[0], paths)
    about = run_description(policy, dataset, config)
    run = Run(config.run.directory) if config.run.directory else None
    if run is not None:
        check_writable(run.directory)
        if run.exists() and (changed := differences(run.about(), about)):
            raise CheckpointError(
                f"{run.directory} holds another run: {', '.join(changed)} differ. "
                "Choose another run directory, or set these as they were"
            )
        if run.step() > config.steps:
            raise CheckpointError(
                f"{run.directory} already has {run.step()} steps, more than the {config.steps} asked "
                "for. Raise steps, or choose another run directory"
            )
    return _steps(policy, dataset, config, about, run)


def _steps(
    policy: Denoiser,
    dataset: EncodedDataset,
    config: SePPOConfig,
    about: dict[str, Any],
    run: Run | None,
) -> Iterator[StepReport]:
    done = run.newest(thoroughly=True) if run is not None else None
    if done is not None and done.step >= config.steps:  # optimizer and pool need not be read
        policy.lora = LoRA(policy.network, config.lora, config.seed, policy.device)
        policy.lora.load(run.weights())
        return
    with run.locked() if run is not None else nullcontext(), policy.session(config.compute):
        state = run.state() if run is not None else None
        trainer = Trainer(policy, dataset, config, about, run)
        trainer.start(state)
        del state
        try:
            with trainer.lora.attached():
                while trainer.step < config.steps and not trainer.stop_requested():
                    yield trainer.advance()
            trainer.save()
        except BaseException:
            trainer.save_what_is_there()
            raise
        finally:
            trainer.lora.load(trainer.evaluated_weights())


class Trainer:
    """The state of a run inside a session and the one step that moves it."""

    def __init__(
        self,
        policy: Denoiser,
        dataset: EncodedDataset,
        config: SePPOConfig,
        about: dict[str, Any],
        run: Run | None,
    ) -> None:
        self.policy, self.dataset, self.config = policy, dataset, config
        self.about, self.run = about, run
        self.rank = 0
        self.step = self.saved_step = 0
        self.lora = policy.lora = LoRA(policy.network, config.lora, config.seed, policy.device)
        self.parameters = self.lora.parameters()
        self.windows = Windows(policy, self.lora, dataset, config, self.rank)
        self.optimizer: Optimizer = make_optimizer(self.parameters, config.optimizer)
        self.loss_scale = FIRST_LOSS_SCALE if policy.compute_dtype == torch.float16 else 1.0
        self.good_steps = 0
        self.window: Window | None = None
        self.held_out: HeldOut | None = None

    def start(self, state: TrainingState | None) -> None:
        """From the beginning, from given weights, or from where the run stood."""
        if state is not None:
            self.lora.load(state.weights)
            load_optimizer_state(self.optimizer, state.optimizer_tensors, state.optimizer_json)
            self.pool = ReferencePool(state.pool[0], self.config.references.capacity)
            self.pool.entries = list(state.pool)
            self.step = self.saved_step = state.step
            self.loss_scale = state.scalars["loss_scale"]
            self.good_steps = int(state.scalars["good_steps"])
        else:
            if self.config.run.initial_weights:
                weights, _ = load_lora(
                    Path(self.config.run.initial_weights), self.config.lora.scale
                )
                self.lora.load(weights)
            self.pool = ReferencePool(
                Snapshot(0, self.lora.state()), self.config.references.capacity
            )
        if self.dataset.held_out is not None:
            winners, initial = self.dataset.held_out, self.pool.entries[0].weights
            size = self.config.batch_size
            self.held_out = HeldOut(self.policy, self.lora, winners, initial, size)
        if self.run is not None:
            self.run.begin(self.about, state)

    def advance(self) -> StepReport:
        """One optimizer step, its bookkeeping, and what it was like."""
        started = time.perf_counter()
        step = self.step + 1
        self._enter_window((step - 1) // self.config.window)
        lr = learning_rate(self.config.optimizer, step, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        measured = self._accumulate(step)
        # Drawing a preview may be cancelled, so it comes before anything of the step is applied.
        preview, caption = self._preview(step)
        self.optimizer.step()
        self.step = step
        self._grow_loss_scale()
        self._snapshot()
        held_out_margin = None
        try:
            held_out_margin = self._held_out_margin()
        finally:  # a step that was applied has its line, whatever stops the measuring
            report = StepReport(
                step=step,
                **measured,
                lr=lr,
                reference_step=self.window.reference.step if self.window.reference else None,
                seconds=time.perf_counter() - started,
                held_out_margin=held_out_margin,
                steps=self.config.steps,
                preview=preview,
                caption=caption,
            )
            if self.run is not None:
                self.run.append_metrics(report.metrics())
        if step % self.config.run.checkpoint_every == 0:
            self.save()
        return report

    def _enter_window(self, index: int) -> None:
        if self.window is None or self.window.index != index:
            self.window = self.windows.open(index, self.pool)

    def _accumulate(self, step: int) -> dict[str, float | None]:
        """Gradients of one optimizer step, clipped; the step's statistics.

        NonFiniteLossError if loss or gradient is not finite; nothing was applied then. Under float16 the
        same step is tried again with half the loss scale first.
        """
        size = self.config.batch_size
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            parts = [
                self._micro_batch(step, range(first, first + size))
                for first in range(0, self.config.winners_per_step, size)
            ]
            norm = self._clip()
            columns = torch.cat(parts, dim=1).cpu()  # the step's one wait for the device
            grad_norm = float(norm)
            if math.isfinite(grad_norm) and bool(columns[0].isfinite().all()):
                return {**statistics(columns), "grad_norm": grad_norm}
            if self.loss_scale <= 1.0:
                raise NonFiniteLossError(
                    f"step {step}: loss or gradient is not finite, the step was not applied. Lower "
                    "the learning rate or beta, or compute in bf16 or fp32; the run stands at step "
                    f"{self.step}"
                )
            self.loss_scale /= 2
            self.good_steps = 0

    def _micro_batch(self, step: int, indices: range) -> Tensor:
        """Add the gradient of some of the step's winners; returns their statistics [7, B], detached.

        Rows: loss, role, logits, winner margin, sample margin, policy error, reference error.
        """
        config, policy, window = self.config, self.policy, self.window
        assert window is not None
        conds = window.conds[indices.start : indices.stop]
        latents = window.winners[indices.start : indices.stop]
        shape = tuple(latents.shape[1:])
        keys = [(config.seed, step, self.rank) for _ in indices]
        noise = torch.stack(
            [normal(shape, *key, "noise", i) for key, i in zip(keys, indices, strict=True)]
        )
        uniform = torch.cat(
            [
                torch.rand(1, generator=generator(*key, "level", i))
                for key, i in zip(keys, indices, strict=True)
            ]
        )
        levels = policy.levels(uniform)
        weight = self.loss_scale / config.winners_per_step

        if window.samples is None:
            prepared = policy.prepare(conds, shape)
            errors = policy.errors(latents, noise, levels, prepared)
            (errors.sum() * weight).backward()
            error = errors.detach()
            unknown = torch.full_like(error, math.nan)
            return torch.stack([error, *[unknown] * 4, error, unknown])

        samples = window.samples[indices.start : indices.stop]
        both = torch.cat([latents, samples])
        noise, levels = torch.cat([noise, noise]), torch.cat([levels, levels])
        prepared = policy.prepare([*conds, *conds], shape)
        with torch.no_grad(), self.lora.using(window.slot):
            reference = DenoisingErrors(*policy.errors(both, noise, levels, prepared).chunk(2))
        current = DenoisingErrors(*policy.errors(both, noise, levels, prepared).chunk(2))
        terms = seppo_loss(
            current,
            reference,
            beta=config.loss.beta,
            criterion=config.loss.criterion,
            loser_weight=config.loss.loser_weight,
        )
        (terms.loss.sum() * weight).backward()
        rows = (
            terms.loss,
            terms.role,
            terms.logits,
            terms.winner_margin,
            terms.sample_margin,
            current.winner,
            reference.winner,
        )
        return torch.stack([row.detach() for row in rows])

    def _clip(self) -> Tensor:
        """Undo the loss scale, clip, and return the norm before clipping, on the device."""
        if self.loss_scale != 1.0:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            torch._foreach_mul_(gradients, 1 / self.loss_scale)
        longest = self.config.optimizer.clip or math.inf
        return torch.nn.utils.clip_grad_norm_(self.parameters, longest)

    def _grow_loss_scale(self) -> None:
        if self.policy.compute_dtype == torch.float16:
            self.good_steps += 1
            if self.good_steps == STEPS_TO_DOUBLE_SCALE:
                self.loss_scale, self.good_steps = self.loss_scale * 2, 0

    def _snapshot(self) -> None:
        """Add the policy to the pool at the end of the window in which a multiple of N steps fell.

        Never inside a window: the reference that drew a bank stays until the bank is used up.
        """
        every = self.config.references.snapshot_every
        if self.pool.capacity == 1:
            return
        window_ends = self.step % self.config.window == 0
        if window_ends and self.step // every > self.pool.entries[-1].step // every:
            self.pool.add(Snapshot(self.step, self.evaluated_weights()))

    def _held_out_margin(self) -> float | None:
        every = self.config.run.held_out_every
        if self.held_out is None or not every:
            return None
        due = self.step % every == 0 or self.step == self.config.steps
        return self.held_out.margin() if due else None

    def stop_requested(self) -> bool:
        """Whether somebody asked for an end after the current step, keeping what was trained."""
        return self.run is not None and self.run.stop_requested()

    def evaluated_weights(self) -> dict[str, Tensor]:
        """The policy's weights as they are to be used."""
        with evaluation_weights(self.optimizer, self.parameters):
            return self.lora.state()

    def _preview(self, step: int) -> tuple[Tensor | None, str]:
        every = self.config.run.preview_every
        if not every or step % every:
            return None, ""
        window = self.window
        if self.config.draws_samples:
            return window.samples[:1], window.caption
        example = self.dataset[0]
        return self.windows.draw([example.cond], window.winners.shape[1:], 0), example.caption

    def save_what_is_there(self) -> None:
        """Save on the way out of a fault, which must not be hidden by another one."""
        try:
            self.save()
        except (OSError, SafetensorError, SePPOError) as error:
            log.error("the run could not be saved at step %d: %s", self.step, error)

    def save(self) -> None:
        """Write the run's state if it moved since the last time."""
        if self.run is None or self.step == self.saved_step:
            return
        tensors, text = optimizer_state(self.optimizer)
        state = TrainingState(
            step=self.step,
            weights=self.lora.state(),
            optimizer_tensors=tensors,
            optimizer_json=text,
            pool=self.pool.entries,
            scalars={"loss_scale": self.loss_scale, "good_steps": self.good_steps},
        )
        weights = self.evaluated_weights()
        metadata = describe(self.run.about(), self.run.name, self.step)
        self.run.save(
            state,
            lambda path: save_run_weights(path, weights, self.config.lora, metadata),
        )
        self.saved_step = self.step
