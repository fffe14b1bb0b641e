"""Makes `stopped/` and `aligned.safetensors` beside it, with the code of commit e5a159a.

From a folder that holds neither, in a host's test environment: `SEPPO_TEST_HOST=HOST
PYTHONPATH=OLD/tests/hosts python make.py`, where `git worktree add OLD e5a159a` made OLD.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from inprocess import prepare_base, start
from test_stopped_runs import Graph, stop_after

HERE = Path.cwd()
BASE = Path(tempfile.mkdtemp()).resolve()
HOST = start(Path(os.environ["SEPPO_TEST_HOST"]), prepare_base(BASE))
FILES = HOST.core("files")


def without_place(path: Path) -> None:
    """Rewrite a run.json or a manifest so that it does not say where this machine had the run."""
    values = json.loads(path.read_text("utf-8"))
    values.get("about", values)["config"]["run"]["directory"] = "old_run"
    FILES.write_json(path, FILES.sealed(values))


made = Graph(HOST, "old_run", steps=5, rank=1)
made.prompt["optimizer"]["inputs"]["pattern"] = "attn"
with pytest.MonkeyPatch.context() as patch, stop_after(HOST, patch, "old_run", 3):
    made.queue()
shutil.copytree(made.run.directory, HERE / "stopped")
for path in (HERE / "stopped" / "run.json", *(HERE / "stopped" / "state").glob("*.json")):
    without_place(path)
made.run.ask_to_go_on()
made.queue()
shutil.copy(made.run.weights_path(), HERE / "aligned.safetensors")
shutil.rmtree(BASE)
