"""Starts ComfyUI inside the test process and runs whole graphs through its own executor."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import os
import re
import shutil
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import thin

PACK = Path(__file__).resolve().parents[2]
PACK_FOLDER = "seppo-for.comfyui"
FOLDERS = ("custom_nodes", "input", "output", "temp", "user", "models")
CONSTANT = "SePPOTestConstant"


class GraphError(AssertionError):
    """A graph was refused, failed or was interrupted; the message is what the user would read."""


@dataclass(frozen=True)
class GraphRun:
    """What one run of a graph left: `run[node_id]` lists each output's first item."""

    lists: dict[str, list[list]]
    """Node id -> outputs -> items; a node without list outputs has one item per output."""
    ui: dict[str, dict]
    """Node id -> what the page is shown."""
    messages: list[tuple[str, object]]
    """(event, data) the host sent to the page while it ran, "progress" among them."""

    def __getitem__(self, node_id: str) -> list:
        return [items[0] if items else None for items in self.lists[node_id]]


@dataclass
class InProcessHost:
    version: tuple[int, ...]
    base: Path
    pack: ModuleType
    """The loaded pack's root module; core classes must come from here, see `core`."""
    messages: list[tuple[str, object]] = field(default_factory=list)
    executor: object = None
    constants: dict[str, object] = field(default_factory=dict)

    @property
    def models(self) -> Path:
        return self.base / "models"

    @property
    def output(self) -> Path:
        return self.base / "output"

    def core(self, name: str = "") -> ModuleType:
        """A module of the loaded copy: core("training.trainer") is its seppo_core.training.trainer, core() its root."""
        return self.module(f"seppo_core.{name}".rstrip("."))

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.pack.__name__}.{name}")

    def node(self, node_id: str) -> type:
        import nodes

        return nodes.NODE_CLASS_MAPPINGS[node_id]

    def call(self, node_id: str, **inputs) -> tuple:
        """Run one V3 node outside a graph; its outputs. Hidden inputs are absent."""
        result = self.node(node_id).execute(**inputs)
        result = asyncio.run(result) if inspect.isawaitable(result) else result
        return result.result if hasattr(result, "result") else result

    def thin_model(self, kind: str, dtype: str = "fp16", seed: int = 0):
        return thin.thin_model(kind, self.models, dtype, seed)

    def thin_name(self, kind: str, dtype: str = "fp16", seed: int = 0) -> str:
        """File name for UNETLoader; the file is written on first use."""
        return thin.thin_file(kind, self.models, dtype, seed).name

    def thin_checkpoint(self) -> str:
        return thin.thin_checkpoint(self.models).name

    def constant(self, value: object) -> dict:
        """A graph node whose only output is `value`, of any socket type."""
        name = f"{type(value).__name__}-{id(value)}"
        self.constants[name] = value
        return {"class_type": CONSTANT, "inputs": {"name": name}}

    def run_graph(
        self, prompt: dict, wanted: list[str] | None = None, keep_cache: bool = False
    ) -> GraphRun:
        """Validate and execute a graph in API format, or raise GraphError.

        `wanted` names nodes to run where the graph has no output node. `keep_cache` keeps the
        host's node cache of the runs before, as re-queueing in the page does.
        """
        import execution

        if self.executor is None or not keep_cache:
            self.executor = make_executor(self.server())
        prompt = copy.deepcopy(prompt)  # the host writes into it
        prompt_id = str(uuid.uuid4())
        targets = asyncio.run(validated(execution, prompt_id, prompt, wanted))
        self.messages.clear()
        self.executor.execute(prompt, prompt_id, {"client_id": "test"}, targets)
        if not self.executor.success:
            raise GraphError(failure(self.executor.status_messages))
        return GraphRun(
            {node_id: items for node_id in prompt if (items := self.cached(node_id)) is not None},
            dict(self.executor.history_result["outputs"]),
            list(self.messages),
        )

    def cached(self, node_id: str) -> list[list] | None:
        entry = self.executor.caches.outputs.get(node_id)
        entry = asyncio.run(entry) if inspect.isawaitable(entry) else entry
        return getattr(entry, "outputs", entry)  # 0.3.64 stores the outputs themselves

    def server(self):
        from server import PromptServer

        return PromptServer.instance


def failure(status_messages: list) -> str:
    for event, data in status_messages:
        if event == "execution_error":
            where = f"{data['node_type']} (node {data['node_id']})"
            return f"{where}: {data['exception_type']}: {data['exception_message']}"
        if event == "execution_interrupted":
            return f"{data['node_type']} (node {data['node_id']}) was interrupted"
    return "the graph failed without a message"


async def validated(execution, prompt_id: str, prompt: dict, wanted: list[str] | None) -> list[str]:
    """Ids of the nodes to execute, once the host found the graph valid."""
    from server import PromptServer

    PromptServer.instance.trigger_on_prompt({"prompt": prompt, "client_id": "test"})
    if wanted is None:
        ok, error, targets, node_errors = await execution.validate_prompt(prompt_id, prompt, None)
        if not ok:
            raise GraphError(f"{error['message']}: {error['details']} {node_errors}")
        return targets
    for node_id in wanted:
        ok, errors, _ = await execution.validate_inputs(prompt_id, prompt, node_id, {})
        if not ok:
            raise GraphError(f"node {node_id}: {errors}")
    return wanted


def make_executor(server):
    import execution

    options = {"cache_type": execution.CacheType.CLASSIC}
    if "cache_args" in inspect.signature(execution.PromptExecutor).parameters:
        options["cache_args"] = {"lru": 0, "ram": 0, "ram_inactive": 0}
    return execution.PromptExecutor(server, **options)


def version_at(path: Path) -> tuple[int, ...]:
    source = (path / "comfyui_version.py").read_text("utf-8")
    return tuple(int(part) for part in re.search(r'"([\d.]+)', source).group(1).split("."))


def prepare_base(base: Path) -> Path:
    """Fill a base directory: the host's folders, and the pack as a link (a copy where links fail)."""
    for folder in FOLDERS:
        (base / folder).mkdir(exist_ok=True)
    link = base / "custom_nodes" / PACK_FOLDER
    try:
        link.symlink_to(PACK, target_is_directory=True)
    except OSError:
        shutil.copytree(PACK, link, ignore=shutil.ignore_patterns(".git", ".venv*", "tests"))
    return base


def start(path: Path, base: Path) -> InProcessHost:
    """Start the host in this process, in the order its own main.py has; once per process."""
    sys.argv = ["main.py", "--base-directory", str(base)]
    if os.environ.get("SEPPO_TEST_DEVICE", "cpu") == "cpu":
        sys.argv.append("--cpu")
    sys.path.insert(0, str(path))

    import comfy.options

    comfy.options.enable_args_parsing()
    import utils.extra_config  # noqa: F401 - before `nodes`, which puts comfy/ on sys.path on 0.3.64

    import nodes  # isort: skip
    import server  # isort: skip

    loop = asyncio.new_event_loop()
    prompt_server = server.PromptServer(loop)
    loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=True, init_api_nodes=False))
    name = str(base / "custom_nodes" / PACK_FOLDER).replace(".", "_x_")
    host = InProcessHost(version_at(path), base, sys.modules[name])
    record_messages(host, prompt_server)
    nodes.NODE_CLASS_MAPPINGS[CONSTANT] = constant_node(host.constants)
    return host


def record_messages(host: InProcessHost, prompt_server) -> None:
    """Keep what the page would be sent, and let progress bars notice Cancel as main.py does."""
    import comfy.model_management
    import comfy.utils

    def send(event, data, sid=None):
        host.messages.append((event, data))

    def progress(value, total, preview, prompt_id=None, node_id=None):
        comfy.model_management.throw_exception_if_processing_interrupted()
        host.messages.append(("progress", SimpleNamespace(value=value, max=total, preview=preview)))

    prompt_server.send_sync = send
    comfy.utils.set_progress_bar_global_hook(progress)


class AnySocket(str):
    """A socket type that the host's validation finds equal to every other."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


def constant_node(constants: dict[str, object]) -> type:
    class Constant:
        CATEGORY = "test"
        FUNCTION = "give"
        RETURN_TYPES = (AnySocket("*"),)

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"name": ("STRING", {})}}

        def give(self, name):
            return (constants[name],)

    return Constant
