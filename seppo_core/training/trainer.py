"""The training loop: `train` yields a report after every optimizer step and owns nothing of its host.

R steps share a reference batch (batch.py); every step has its own noise
and levels, shared by winner and sample, by policy and reference. Every random number derives from
(seed, step or batch, index of the winner).
"""

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..adapters.files import load_lora
from ..adapters.lora import LoRA, check_fit, find_paths
from ..data import EncodedDataset
from ..denoisers import Denoiser
from ..devices import is_out_of_memory
from ..errors import CheckpointError, DatasetError
from ..runs.report import StepReport
from ..runs.run import Run
from .config import SePPOConfig
from .continuation import check_writable, differences
from .memory import Footprint, Shortage
from .optim import make_optimizer
from .session import Trainer


def run_description(
    policy: Denoiser, dataset: EncodedDataset, config: SePPOConfig
) -> dict[str, Any]:
    """What run.json says: two runs are the same run if they agree here (see continuation.differences)."""
    from .. import __version__

    initial = config.run.initial_weights
    digest = hashlib.sha256(Path(initial).read_bytes()).hexdigest() if initial else None
    return {
        "version": __version__,
        "family": policy.family,
        "base": policy.base_fingerprint(),
        "base_name": policy.base_name(),
        "conditions": policy.context_fingerprint(config.references.guidance_scale != 1.0),
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
    draws = config.loss.draws_samples or config.run.preview_every > 0
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
