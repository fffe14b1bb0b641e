"""The training loop: `train` yields a report after every optimizer step and owns nothing of its host.

The steps of one window (batch.py) share reference, winners and samples; every step has its own noise
and levels, shared by winner and sample, by policy and reference. Every random number derives from
(seed, step or window, index of the winner).
"""

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Optimizer

from ..adapters.files import load_lora, save_run_weights
from ..adapters.lora import LoRA, check_fit, find_paths
from ..data import EncodedDataset
from ..denoisers import Denoiser
from ..devices import free_memory, is_out_of_memory
from ..errors import CheckpointError, DatasetError, NonFiniteLossError, SePPOError
from ..method.references import ReferencePool, Snapshot
from ..runs.report import NOT_APPLIED, StepReport
from ..runs.run import Run
from ..runs.state import TrainingState
from ..runs.status import DONE, STOPPED
from .batch import Window, Windows
from .config import SePPOConfig
from .continuation import check_writable, differences
from .floor import Floor
from .guard import MOST_ROLLBACKS, Alarm, Guard
from .held_out import HeldOut
from .memory import Footprint, Shortage
from .metadata import describe
from .optim import (
    evaluation_weights,
    learning_rate,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    warmup_steps,
)
from .step import Gradients

log = logging.getLogger(__name__)

WENT_BACK = "went_back"
"""Where run.json says how many times the run went back, and to which step the last time."""


def run_description(
    policy: Denoiser, dataset: EncodedDataset, config: SePPOConfig
) -> dict[str, Any]:
    """What run.json says: two runs are the same run if they agree here (see checkpoint.differences)."""
    from .. import __version__

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
    for winners in (dataset, dataset.held_out):
        if winners is not None:
            check_policy(policy, winners, config)
    make_optimizer([torch.nn.Parameter(torch.zeros(1))], config.optimizer)  # is its package there?
    paths = find_paths(policy.network, config.lora)
    if config.run.initial_weights:
        check_fit(load_lora(Path(config.run.initial_weights), config.lora.scale)[0], paths)
    about = run_description(policy, dataset, config)
    run = Run(config.run.directory) if config.run.directory else None
    if run is not None:
        check_writable(run.directory)
        if run.exists() and (changed := differences(run.about(), about, run.step())):
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


def check_policy(policy: Denoiser, dataset: EncodedDataset, config: SePPOConfig) -> None:
    """Raise a SePPOError if the policy cannot work with the dataset or the settings; move and write nothing."""
    draws = config.draws_samples or config.run.preview_every > 0
    sampling = config.references if draws else None
    policy.check(dataset, config.compute, sampling, config.loss.paired)


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
        run.mend(about)
        return
    with run.locked() if run is not None else nullcontext(), policy.session(config.compute):
        state = run.state() if run is not None else None
        trainer = Trainer(policy, dataset, config, about, run)
        trainer.start(state)
        del state
        try:
            footprint = Footprint(policy.device, config)
            with trainer.lora.attached():
                while trainer.step < config.steps:
                    report = trainer.advance()
                    footprint.look(report.step)
                    yield report
                    if trainer.ends():
                        break
            trainer.save()
            trainer.tell_end()
        except BaseException as error:
            trainer.save_what_is_there()
            if is_out_of_memory(error):
                shortage = Shortage.of(error, policy.device)
                raise shortage.error(f"step {trainer.step + 1}", config) from None
            raise
        finally:
            trainer.lora.load(trainer.evaluated_weights())
            trainer.lora.evaluation = nullcontext


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
        self.step = self.saved_step = 0
        self.lora = policy.lora = LoRA(policy.network, config.lora, config.seed, policy.device)
        self.parameters = self.lora.parameters()
        self.windows = Windows(policy, self.lora, dataset, config)
        self.gradients = Gradients(policy, self.lora, config)
        self.optimizer: Optimizer = make_optimizer(self.parameters, config.optimizer)
        self.lora.evaluation = lambda: evaluation_weights(self.optimizer, self.parameters)
        self.guard = Guard(config.guard)
        self.warm = warmup_steps(config.optimizer, config.steps)
        """steps of the warm-up, as the run began: raising `steps` does not begin it again"""
        self.rollbacks = 0
        """how often the run went back; each time the learning rate was halved"""
        self.judged_from = 0
        """the step that it last went back to, or that drift ended it at: the guard looks at those after it"""
        self.window: Window | None = None
        self.held_out: HeldOut | None = None
        self.ended = ""
        """why the run ends before its last step, keeping what was trained; empty if it does not"""

    def start(self, state: TrainingState | None) -> None:
        """From the beginning, from given weights, or from where the run stood."""
        if state is not None:
            before = self.run.about()["config"]["steps"]
            self.warm = warmup_steps(self.config.optimizer, before)  # if an older state tells none
            self._take(state)
            self.rollbacks = int(state.scalars["rollbacks"])
        else:
            if initial := self.config.run.initial_weights:
                self.lora.load(load_lora(Path(initial), self.config.lora.scale)[0])
            self.pool = ReferencePool(
                Snapshot(0, self.lora.state()), self.config.references.capacity
            )
        self._remember_rollbacks()
        initial = self.pool.entries[0].weights
        self.floor = Floor(self.policy, self.lora, self.dataset, initial)
        if self.dataset.held_out is not None:
            winners = self.dataset.held_out
            size = self.config.batch_size
            self.held_out = HeldOut(self.policy, self.lora, winners, initial, size)
        if self.run is not None:
            self.run.begin(self.about, state)
        log.info("%s", self.windows.plan.report(self.config.steps, self.config.window))

    def _remember_rollbacks(self) -> None:
        """What run.json says of them: a run that was killed since has no checkpoint that knows of the last."""
        if self.run is None or not self.run.exists():
            return
        with suppress(CheckpointError):  # damaged, and no checkpoint remembers it
            told = self.run.about().get(WENT_BACK)
            if told:
                self.about = {**self.about, WENT_BACK: told}
            if told and told["times"] > self.rollbacks:
                self._went_back(**told)

    def _went_back(self, times: int, to: int) -> None:
        self.rollbacks, self.judged_from = times, to
        self.about = {**self.about, WENT_BACK: {"times": times, "to": to}}
        self.guard = Guard(self.config.guard)

    def _take(self, state: TrainingState) -> None:
        """Weights, optimizer, pool and place of a checkpoint."""
        self.lora.load(state.weights)
        load_optimizer_state(self.optimizer, state.optimizer_tensors, state.optimizer_json)
        self.pool = ReferencePool(state.pool[0], self.config.references.capacity)
        self.pool.entries = list(state.pool)
        self.step = self.saved_step = state.step
        scalars = state.scalars
        self.gradients.scaling.factor = scalars["loss_scale"]
        self.gradients.scaling.good_steps = int(scalars["good_steps"])
        self.gradients.micro_batch = min(int(scalars["micro_batch"]), self.config.batch_size)
        self.windows.draw_batch = min(int(scalars["draw_batch"]), self.windows.draw_batch)
        self.warm = int(scalars.get("warmup_steps", self.warm))
        self.judged_from = int(scalars.get("judged_from", 0))
        later = (line for line in state.metrics if line["step"] > self.judged_from)
        self.guard = Guard(self.config.guard, later)

    def advance(self) -> StepReport:
        """One optimizer step, its bookkeeping, and what it was like."""
        started = time.perf_counter()
        step = self.step + 1
        self._enter_window((step - 1) // self.config.window)
        lr = learning_rate(self.config.optimizer, step, self.config.steps, self.warm)
        lr /= 2**self.rollbacks
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        measured = self.gradients.of_step(step, self.window)
        # Measuring and drawing may be cancelled, so they come before anything of the step is applied.
        times = self.gradients.stretch(step, self.window)
        floor = self.floor.of(measured, len(self.window.positions), times)
        preview, caption = self._preview(step)
        if measured is not None:
            self.optimizer.step()
            self.gradients.applied()
        self.step = step
        held_out_margin = None
        try:
            self._snapshot()
            held_out_margin = self._held_out_margin()
        finally:  # a step that was applied has its line, whatever stops the measuring
            report = StepReport(
                step=step,
                **(measured or NOT_APPLIED),
                winner_margin_floor=floor,
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
        if alarm := self.guard.judge(report.metrics()):
            self._obey(alarm)
            report = replace(report, alarm=alarm.reason, undone=self.step < step)
        self._checkpoint()
        return report

    def _enter_window(self, index: int) -> None:
        while self.window is None or self.window.index != index:
            try:
                self.window = self.windows.open(index, self.pool)
            except Exception as error:
                splits = self.config.guard.out_of_memory == "split"
                if not (splits and is_out_of_memory(error) and self.windows.draw_batch > 1):
                    raise
            else:
                return
            free_memory(self.policy.device)
            self.windows.draw_batch = max(
                1, min(self.windows.draw_batch, self.windows.plan.fullest) // 2
            )

    def _obey(self, alarm: Alarm) -> None:
        """Do what the configuration asks for when something went wrong."""
        where = f"step {self.step}: {alarm.reason}"
        if alarm.action == "warn":
            log.warning("%s", where)
        elif alarm.action == "roll back" and self.rollbacks < MOST_ROLLBACKS:
            self._roll_back(where)
        elif alarm.finite:
            log.warning("%s. The run ends here, with what it has learned", where)
            self.ended = alarm.reason
            self.judged_from = self.step  # asked to go on, it is judged anew
        else:
            raise NonFiniteLossError(
                f"{where}; none of these steps was applied. Lower the learning rate or beta, or compute in "
                "bf16 or fp32"
            )

    def _roll_back(self, where: str) -> None:
        """Go on from the last checkpoint, or from the first weights, with half the learning rate.

        If it can be helped not from the weights that gave steps that are not finite: they would give them again.
        """
        state = None
        if self.run is not None:
            last_good = self.step - self.guard.bad_steps
            state = self.run.state(before=last_good) or self.run.state()
        self.optimizer = make_optimizer(self.parameters, self.config.optimizer)
        self.window = None
        if state is not None:
            self._take(state)
        else:
            self.lora.load(self.pool.entries[0].weights)
            self.pool = ReferencePool(self.pool.entries[0], self.config.references.capacity)
            self.step = self.saved_step = 0
        self._went_back(self.rollbacks + 1, self.step)
        if self.run is not None:
            self.run.begin(self.about, state)
        log.warning("%s. Back to step %d, with half the learning rate", where, self.step)

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
        if self.step % every and self.step != self.config.steps:
            return None
        with self.lora.evaluation():
            return self.held_out.margin()

    def ends(self) -> bool:
        """Whether the run ends before its last step, keeping what was trained."""
        return bool(self.ended) or (self.run is not None and self.run.stop_requested())

    def tell_end(self) -> None:
        """Leave word whether the run has all its steps; one that ended before stays so until it is asked to go on."""
        if self.run is not None and self.step < self.config.steps:
            self.run.tell(STOPPED, self.ended)
        elif self.run is not None:
            self.run.tell(DONE)

    def evaluated_weights(self) -> dict[str, Tensor]:
        """The policy's weights as they are to be used."""
        with self.lora.evaluation():
            return self.lora.state()

    def _preview(self, step: int) -> tuple[Tensor | None, str]:
        every = self.config.run.preview_every
        if not every or step % every:
            return None, ""
        window = self.window
        if self.config.draws_samples:
            return window.samples[0][None], window.caption
        example = self.dataset[0]
        with self.lora.evaluation():
            (drawn,) = self.windows.draw([example.cond], [example.latents.shape], 0)
        return drawn[None], example.caption

    def save_what_is_there(self) -> None:
        """Save on the way out of a fault, which must not be hidden by another one."""
        try:
            self.save()
        except (OSError, SafetensorError, SePPOError) as error:
            log.error("the run could not be saved at step %d: %s", self.step, error)

    def _checkpoint(self) -> None:
        """Save if a multiple of N steps came by; while steps are not finite there is nothing to go back to."""
        every = self.config.run.checkpoint_every
        if self.step // every > self.saved_step // every and not self.guard.bad_steps:
            self.save()

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
            scalars={
                "loss_scale": self.gradients.scaling.factor,
                "good_steps": self.gradients.scaling.good_steps,
                "micro_batch": self.gradients.micro_batch,
                "draw_batch": self.windows.draw_batch,
                "rollbacks": self.rollbacks,
                "judged_from": self.judged_from,
                "warmup_steps": self.warm,
            },
        )
        weights = self.evaluated_weights()
        metadata = describe(self.run.about(), self.run.name, self.step)
        self.run.save(
            state,
            lambda path: save_run_weights(path, weights, self.config.lora, metadata),
        )
        self.saved_step = self.step
