"""Makes `stopped/` and `aligned.safetensors` beside it, with the code of commit e5a159a.

From a folder that holds neither: `PYTHONPATH=OLD:OLD/tests/core python make.py`, where
`git worktree add OLD e5a159a` made OLD.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from seppo_core.checkpoint import Run
from seppo_core.config import LoRAConfig, LossConfig, OptimizerConfig, ReferenceConfig, RunConfig
from tiny import TinyDenoiser, examples

from seppo_core import SePPOConfig, train
from seppo_core.data import in_memory

CONFIG = SePPOConfig(
    steps=9,
    batch_size=2,
    seed=3,
    loss=LossConfig(beta=100.0, criterion="sign"),
    references=ReferenceConfig(snapshot_every=2, capacity=3, reuse=2, sampling_steps=2),
    lora=LoRAConfig(rank=2, alpha=1.0, modules="all"),
    optimizer=OptimizerConfig(learning_rate=0.01, schedule="cosine", warmup=0.2),
    run=RunConfig(checkpoint_every=2, preview_every=0, held_out_every=2),
)


def trained(directory: str, last: int) -> Run:
    """The run in `directory` whose user pressed Stop after step `last`."""
    run = Run(Path(directory))
    dataset = in_memory(examples(6))
    dataset.held_out = in_memory(examples(8)[6:])
    config = replace(CONFIG, run=replace(CONFIG.run, directory=directory))
    for report in train(TinyDenoiser(), dataset, config):
        if report.step == last:
            run.request_stop()
    return run


trained("stopped", 5)
shutil.copytree("stopped", "finished")
shutil.copy(trained("finished", 9).weights_path(), "aligned.safetensors")
shutil.rmtree("finished")
