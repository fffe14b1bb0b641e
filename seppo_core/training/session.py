"""A run inside a session: its state, and the one step that moves it."""

import logging
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Optimizer

from ..adapters.files import load_lora, save_run_weights
from ..adapters.lora import LoRA
from ..data import EncodedDataset
from ..denoisers import Denoiser
from ..devices import free_memory, is_out_of_memory
from ..errors import CheckpointError, NonFiniteLossError, SePPOError
from ..method.references import ReferencePool, Snapshot
from ..runs.report import NOT_APPLIED, StepReport
from ..runs.run import Run
from ..runs.state import TrainingState
from ..runs.status import DONE, STOPPED
from .batch import ReferenceBatch, ReferenceBatches
from .config import SePPOConfig
from .floor import Floor
from .guard import MOST_ROLLBACKS, Alarm, Guard
from .held_out import HeldOut
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
        self.batches = ReferenceBatches(policy, self.lora, dataset, config)
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
        self.batch: ReferenceBatch | None = None
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
            size, overshoot = self.config.batch_size, self.config.loss.overshoot
            self.held_out = HeldOut(self.policy, self.lora, winners, initial, size, overshoot)
        if self.run is not None:
            self.run.begin(self.about, state)
        log.info("%s", self.batches.plan.report(self.config.steps, self.config.steps_per_batch))

    def _remember_rollbacks(self) -> None:
        """What run.json says of them: a run that was killed since has no checkpoint that knows of the last."""
        if self.run is None or not self.run.exists():
            return
        with suppress(CheckpointError):  # damaged, and no checkpoint remembers it
            went_back = self.run.about().get(WENT_BACK)
            if went_back:
                self.about = {**self.about, WENT_BACK: went_back}
            if went_back and went_back["times"] > self.rollbacks:
                self._went_back(**went_back)

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
        self.batches.draw_batch = min(int(scalars["draw_batch"]), self.batches.draw_batch)
        self.warm = int(scalars.get("warmup_steps", self.warm))
        self.judged_from = int(scalars.get("judged_from", 0))
        later = (line for line in state.metrics if line["step"] > self.judged_from)
        self.guard = Guard(self.config.guard, later)

    def advance(self) -> StepReport:
        """One optimizer step, its bookkeeping, and what it was like."""
        started = time.perf_counter()
        step = self.step + 1
        self._open_batch((step - 1) // self.config.steps_per_batch)
        lr = learning_rate(self.config.optimizer, step, self.config.steps, self.warm)
        lr /= 2**self.rollbacks
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        measured = self.gradients.of_step(step, self.batch)
        # Measuring and drawing may be cancelled, so they come before anything of the step is applied.
        times = self.gradients.stretch(step, self.batch) * self.config.loss.overshoot
        floor = self.floor.of(measured, len(self.batch.positions), times)
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
                reference_step=self.batch.reference.step if self.batch.reference else None,
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

    def _open_batch(self, index: int) -> None:
        while self.batch is None or self.batch.index != index:
            try:
                self.batch = self.batches.open(index, self.pool)
            except Exception as error:
                splits = self.config.guard.out_of_memory == "split"
                if not (splits and is_out_of_memory(error) and self.batches.draw_batch > 1):
                    raise
            else:
                return
            free_memory(self.policy.device)
            self.batches.draw_batch = max(
                1, min(self.batches.draw_batch, self.batches.plan.fullest) // 2
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
        self.batch = None
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
        """Add the policy to the pool at the end of the reference batch in which a multiple of N steps fell.

        Never before: the reference that drew the samples stays until they are used up.
        """
        every = self.config.references.snapshot_every
        if self.pool.capacity == 1:
            return
        batch_ends = self.step % self.config.steps_per_batch == 0
        if batch_ends and self.step // every > self.pool.entries[-1].step // every:
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
        batch = self.batch
        if self.config.loss.draws_samples:
            return batch.samples[0][None], batch.caption
        example = self.dataset[0]
        with self.lora.evaluation():
            (drawn,) = self.batches.draw([example.cond], [example.latents.shape], 0)
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
                "draw_batch": self.batches.draw_batch,
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
