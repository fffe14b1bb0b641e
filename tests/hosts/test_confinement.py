"""No text of any node leads out of the host's folders: every input is found from the list of nodes."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from folders import draw
from hostile import LINK, MARKER, Bait, attacks, lay_bait, tidied, watch
from inprocess import PACK, GraphError
from runs import dataset, make_run
from thin import thin_conditioning, thin_latent

LONG = os.environ.get("SEPPO_RELIABILITY") == "long"
THOROUGH = os.environ.get("SEPPO_TESTS") == "all"

RUN = "my_run"
"""The default of the nodes that take a run's name."""


def winners(host) -> Any:
    path = host.base / "input" / "winners"
    return host.core("data").read_winners(path)


def video(host) -> Any:
    from comfy_api.latest import InputImpl, Types

    frames = torch.zeros(5, 64, 64, 3)
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=frames, frame_rate=8))


def part(place: int) -> Callable[[Any], Any]:
    """An output of Load Checkpoint."""

    def loaded(host: Any) -> Any:
        loader = host.node("CheckpointLoaderSimple")()
        return loader.load_checkpoint(host.thin_checkpoint())[place]

    return loaded


def prompts(host):
    sampling = host.core("training.config").ReferenceConfig(sampler="euler", sampling_steps=1)
    cond = thin_conditioning("sd15")
    return host.module("nodes.test_prompts").TestPrompts(
        ["a fox"], [cond], (4, 8, 8), {}, 1, 0, sampling
    )


SOCKETS: dict[str, Callable[[Any], Any]] = {
    "MODEL": lambda host: host.thin_model("sd15"),
    "CLIP": part(1),
    "VAE": part(2),
    "IMAGE": lambda host: torch.zeros(1, 64, 64, 3),
    "VIDEO": video,
    "CLIP_VISION": lambda host: SimpleNamespace(
        encode_image=lambda image: {"image_embeds": image.flatten(1)[:, :8]}
    ),
    "LATENT": lambda host: thin_latent("sd15", size=8),
    "CONDITIONING": lambda host: thin_conditioning("sd15"),
    "SEPPO_WINNERS": winners,
    "SEPPO_DATASET": lambda host: dataset(host, "sd15"),
    "SEPPO_RUN": lambda host: host.core("runs.run").Run(host.output / "seppo" / RUN),
    "SEPPO_REFERENCES": lambda host: {"sampler": "euler", "sampling_steps": 1},
    "SEPPO_OPTIMIZER": lambda host: {},
    "SEPPO_TESTS": prompts,
}
"""Socket type -> a small value for it. A node of a type that is missing here fails the test until it is added."""

WIDGETS = {"STRING", "COMBO", "INT", "FLOAT", "BOOLEAN"}

QUICK = {
    **{"steps": 1, "rank": 4, "levels": 2, "draws": 1, "winners": 1, "resolution": 64},
    **{"prompts": "a fox", "seeds": 1, "width": 64, "height": 64},
}
"""Widgets whose defaults would take long."""

SLOW = {"SePPOCompare", "SePPOTestPrompts"}
"""Nodes that draw pictures or encode texts for each string; they are given fewer unless time is no matter."""


def some_of(strings: list[str], node: str) -> list[str]:
    """As many of the attacks, of every kind, as there is time for: a dozen, all, or with SLOW nodes a part of them."""
    if LONG:
        return strings
    slow = node in SLOW
    return strings[:: (12 if slow else 1) if THOROUGH else (48 if slow else 16)]


TOGETHER = {
    ("SePPOLoadWinners", "folder"): [
        {"location": place} for place in ("input", "output", "datasets")
    ],
}
"""Inputs that are tried again with other inputs set to each of these."""


@dataclass(frozen=True)
class Target:
    """One input of one node."""

    node: str
    name: str
    kind: str
    others: tuple[tuple[str, Any], ...] = ()
    """widgets that are not at their defaults"""

    def __str__(self) -> str:
        return f"{self.node}.{self.name}"


def inputs_of(host: Any, node: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> (type, options) of every input of a node but the hidden ones."""
    found = {}
    info = host.node(node).INPUT_TYPES()
    for section in ("required", "optional"):
        for name, (kind, *options) in info.get(section, {}).items():
            given = dict(options[0]) if options else {}
            if isinstance(kind, list | tuple):
                kind, given = "COMBO", given | {"options": list(kind)}
            found[name] = (kind, given)
    return found


def our_nodes(host: Any) -> list[str]:
    return [node.define_schema().node_id for node in host.module("nodes").NODES]


def value_of(host: Any, name: str, kind: str, options: dict[str, Any]) -> Any:
    """What a widget holds when nobody changed it."""
    if name in QUICK and kind in WIDGETS:
        return QUICK[name]
    if "default" in options:
        return options["default"]
    return options["options"][0]


@dataclass
class Tried:
    """Runs nodes, each with every other input at hand."""

    host: Any
    values: dict[str, dict[str, Any]]
    """socket type -> a node that gives a value for it"""

    def graph(self, target: Target, value: Any, is_linked: bool) -> dict[str, Any]:
        graph: dict[str, Any] = {}
        inputs = {}
        for name, (kind, options) in inputs_of(self.host, target.node).items():
            if kind in WIDGETS:
                inputs[name] = value_of(self.host, name, kind, options)
            else:
                graph[f"in_{name}"] = self.values[kind]
                inputs[name] = [f"in_{name}", 0]
        inputs |= dict(target.others)
        inputs[target.name] = ["value", 0] if is_linked else value
        if is_linked:
            graph["value"] = self.host.constant(value)
        return graph | {"node": {"class_type": target.node, "inputs": inputs}}

    def outcome(self, target: Target, value: str, is_linked: bool) -> tuple[str, str]:
        """("given", every text of the result) or ("refused", the error)."""
        try:
            run = self.host.run_graph(self.graph(target, value, is_linked), wanted=["node"])
        except GraphError as error:
            return "refused", str(error)
        except Exception as error:  # from the host's validation, which lets it through
            return "refused", f"{type(error).__name__}: {error}"
        finally:
            self.host.constants.pop(f"str-{id(value)}", None)
        return "given", "\n".join([*texts_in(run.lists["node"]), *texts_in(run.ui)])


def texts_in(value: Any, depth: int = 6) -> Iterator[str]:
    """Every text within a result: of lists, tables, winners, datasets and runs."""
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_in(key, depth - 1)
            yield from texts_in(item, depth - 1)
    elif isinstance(value, list | tuple) or hasattr(value, "left_out"):
        items = [value[i] for i in range(len(value))]
        for item in items if depth else ():
            yield from texts_in(item, depth - 1)
    elif hasattr(value, "caption"):
        yield from (value.caption, getattr(value, "name", ""))
    elif hasattr(value, "directory"):
        yield str(value.directory)


@pytest.fixture(scope="module")
def bait(host) -> Iterator[Bait]:
    with tidied(host.base):
        yield laid_bait(host)


def laid_bait(host) -> Bait:
    for number in range(2):
        draw(host.base / "input" / "winners" / f"{number}.png", "a fox", seed=number)
    host.thin_checkpoint()
    make_run(host, "sd15", RUN, steps=2)
    return lay_bait(host.base, host.output / "seppo" / RUN, host.module("seppo_core.files").sealed)


@pytest.fixture(scope="module")
def tried(host, bait) -> Tried:
    """DatasetError and the like come from the loaded copy; sockets are filled once for all nodes."""
    needed = {
        kind
        for node in our_nodes(host)
        for kind, _ in inputs_of(host, node).values()
        if kind not in WIDGETS
    }
    missing = sorted(needed - set(SOCKETS))
    assert not missing, f"give the table SOCKETS of this file a value for {missing}"
    return Tried(host, {kind: host.constant(SOCKETS[kind](host)) for kind in sorted(needed)})


@pytest.fixture
def elsewhere(bait, monkeypatch, host):
    """Home and working directory lie in the bait, so that what is relative to them is noticed."""
    import folder_paths
    import matplotlib.font_manager  # noqa: F401 - looks into the home folder when it is first imported

    monkeypatch.chdir(bait.root / "home")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(bait.root / "home"))
    logging.disable(logging.CRITICAL)  # the host logs every refusal with its stack
    sets = ([str(host.base / "input" / "winners")], set())
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "seppo_datasets", sets)
    yield
    logging.disable(logging.NOTSET)


ERRORS = re.findall(
    r"^class (\w+)", (PACK / "seppo_core" / "errors.py").read_text("utf-8"), re.MULTILINE
)
OURS = re.compile(rf": ({'|'.join(ERRORS)}): ")
BY_THE_HOST = re.compile(r"^(Prompt outputs failed validation|node node: )")


def complaint(outcome: str, text: str) -> str:
    """What is wrong with how a string was answered; empty if nothing."""
    if MARKER in text:
        return "tells what the bait holds"
    if "Traceback" in text:
        return "shows a traceback"
    if outcome == "refused" and not (OURS.search(text) or BY_THE_HOST.search(text)):
        return "is an error of another kind"
    return ""


def wrongs(tried: Tried, bait: Bait, target: Target, strings: list[str]) -> list[str]:
    """Everything that went wrong with these strings in one input, each kind of it once."""
    before, found = bait.state(), {}
    known = {path.name for path in (bait.base / "output").iterdir()} | bait.in_output
    for text in strings:
        for way in ("typed", "linked"):
            with watch(bait.root) as touched:
                outcome, answer = tried.outcome(target, text, way == "linked")
            for word in filter(None, (complaint(outcome, answer), *touched)):
                found.setdefault(f"{target} {way}: {word}", f"{text[:60]!r}: {answer[:300]}")
    after = bait.state()
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    odd = {path.name for path in (bait.base / "output").iterdir()} - known
    return [
        *(f"{about}: {text}" for about, text in found.items()),
        *(f"{target}: changed {path}" for path in sorted(changed)),
        *(f"{target}: made output/{name}" for name in sorted(odd)),
    ]


def targets(host: Any, kind: str) -> list[Target]:
    found = []
    for node in our_nodes(host):
        for name, (its_kind, _) in inputs_of(host, node).items():
            if its_kind == kind:
                for others in TOGETHER.get((node, name), [{}]):
                    found.append(Target(node, name, kind, tuple(others.items())))
    return found


def test_the_watch_sees_what_is_read_listed_and_made(bait):
    with watch(bait.root) as touched:
        (bait.root / "winners" / "a.txt").read_text()
        list((bait.base / "input" / LINK / "winners").iterdir())
        (bait.root / "fresh").mkdir()
        (bait.root / "fresh").rmdir()
    heard = [line.partition(" ")[0] for line in touched]
    assert heard[0] == "open" and "os.mkdir" in heard and "os.rmdir" in heard
    assert {"os.scandir", "os.listdir"} & set(heard)


def test_text_inputs_of_all_nodes_are_found(host):
    found = {str(target) for target in targets(host, "STRING")}
    assert {"SePPOLoadWinners.folder", "SePPOTrain.run_name", "SePPOLoadRun.run_name"} < found
    assert "SePPOSaveAligned.filename_prefix" in found


def test_every_attack_ends_inside_or_in_an_error_of_ours(bait, host, elsewhere):
    """On the functions themselves, which every node asks."""
    module, refused = host.module("nodes.host"), host.core("errors").SePPOError
    inputs, runs = host.base / "input", module.runs_root()
    ways = {
        module.confined: (inputs, lambda text: module.confined(inputs, text)),
        module.confined_name: (runs, lambda text: module.confined_name(runs, text)),
        module.data_path: (inputs, lambda text: module.data_path("input", text)),
    }
    inside = 0
    for text in attacks(bait):
        for root, find in ways.values():
            with watch(bait.root) as touched:
                try:
                    found = find(text)
                except refused:
                    found = root
                else:
                    inside += 1
            assert Path(os.path.realpath(found)).is_relative_to(root.resolve()), text
            assert not touched, (text, touched)
    assert inside  # some are harmless


def test_no_text_of_any_node_leads_out_of_the_hosts_folders(
    tried, bait, host, elsewhere, own_cache, record_property
):
    strings = attacks(bait)
    found: list[str] = []
    tried_in_all = 0
    for target in targets(host, "STRING"):
        some = some_of(strings, target.node)
        found += wrongs(tried, bait, target, some)
        tried_in_all += 2 * len(some)
    record_property("paths tried in text inputs", tried_in_all)
    assert not found, f"{len(found)}:\n" + "\n".join(found[:60])


def test_no_choice_of_any_node_takes_a_path(
    tried, bait, host, elsewhere, own_cache, record_property
):
    strings = attacks(bait) if LONG else attacks(bait)[::5]
    found: list[str] = []
    tried_in_all = 0
    for target in targets(host, "COMBO"):
        some = some_of(strings, target.node)
        found += wrongs(tried, bait, target, some)
        tried_in_all += 2 * len(some)
    record_property("paths tried in choices", tried_in_all)
    assert not found, f"{len(found)}:\n" + "\n".join(found[:60])


# Names of runs


@pytest.mark.parametrize(
    "name", ["CON", "nul", "aux.txt", "Com1", "LPT9.a.b", "PRN ", "COM\u00b9", "conin$"]
)
def test_names_that_windows_keeps_are_refused_everywhere(host, name):
    module = host.module("nodes.host")
    with pytest.raises(host.core("errors").ConfigError, match="is not a usable name"):
        module.confined_name(module.runs_root(), name)


@pytest.mark.parametrize(
    "name", ["console", "my.run", "com10", "null", "\u5b9f\u9a13 1", "r\u00e9sum\u00e9", "a" * 200]
)
def test_ordinary_names_are_taken_as_they_are(host, name):
    module = host.module("nodes.host")
    assert module.confined_name(module.runs_root(), name) == module.runs_root() / name


# Files that name other files


@pytest.fixture
def planted(host, bait):
    """A copy of the run, to be changed."""
    run = host.output / "seppo" / "planted"
    shutil.copytree(host.output / "seppo" / RUN, run)
    yield run
    shutil.rmtree(run)
    shutil.rmtree(host.output / "seppo" / "fresh", ignore_errors=True)


def read_everywhere(tried: Tried, run: Path) -> list[str]:
    """Give the run to every node that takes one; what they tell, or their errors."""
    host, answers = tried.host, []
    for node in our_nodes(host):
        every = inputs_of(host, node)
        for name, (kind, _) in every.items():
            if kind == "SEPPO_RUN":
                target = Target(
                    node, name, kind, (("run_name", "fresh"),) if "run_name" in every else ()
                )
                graph = tried.graph(target, None, is_linked=False)
                graph["node"]["inputs"][name] = ["run", 0]
                graph["run"] = {"class_type": "SePPOLoadRun", "inputs": {"run_name": run.name}}
                try:
                    found = host.run_graph(graph, wanted=["node"])
                    answers.append("\n".join([*texts_in(found.lists["node"]), *texts_in(found.ui)]))
                except GraphError as error:
                    answers.append(str(error))
    assert len(answers) >= 4
    return answers


def test_paths_in_a_runs_json_lead_nowhere(tried, bait, host, elsewhere, planted):
    sealed = host.module("seppo_core.files").sealed
    about = json.loads((planted / "run.json").read_text("utf-8"))
    away = bait.root / "run"
    (weights,) = sorted((away / "weights").glob("*.safetensors"))[-1:]
    about["config"]["run"] |= {"directory": str(away), "initial_weights": str(weights)}
    (planted / "run.json").write_text(json.dumps(sealed(about)), "utf-8")
    for manifest in (planted / "state").glob("*.json"):
        values = json.loads(manifest.read_text("utf-8"))
        manifest.write_text(json.dumps(sealed(values | {"about": about})), "utf-8")
    before = bait.state()
    with watch(bait.root) as touched:
        answers = read_everywhere(tried, planted)
    assert not [text for text in answers if MARKER in text or "Error" in text]
    assert (touched, bait.state()) == ([], before)


@pytest.mark.parametrize("way", ["names", "steps", "pool"])
def test_a_manifest_that_names_files_elsewhere_is_passed_over(
    tried, bait, host, elsewhere, planted, way
):
    for manifest in (planted / "state").glob("*.json"):
        values = json.loads(manifest.read_text("utf-8"))
        if way == "names":
            up = f"../../../{bait.root.name}/run/"
            values["files"] = {up + name: seal for name, seal in values["files"].items()}
        elif way == "steps":
            values["step"] = f"../../{bait.root.name}/run/state/step"
        else:
            values["pool"] = [f"../../../{bait.root.name}/run/pool/step_00000000", "/etc/passwd"]
        manifest.write_text(json.dumps(host.module("seppo_core.files").sealed(values)), "utf-8")
    before = bait.state()
    with watch(bait.root) as touched:
        answers = read_everywhere(tried, planted)
    assert all(MARKER not in text for text in answers)
    assert not [text for text in answers if "Error" in text and not OURS.search(text)]
    assert (touched, bait.state()) == ([], before)


@pytest.mark.parametrize("name", ["weights", "state", "pool", "run.json", "metrics.jsonl"])
def test_a_run_whose_files_are_links_that_leave_is_refused(
    tried, bait, host, elsewhere, planted, name
):
    inside = planted / name
    shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
    inside.symlink_to(bait.root / "run" / name)
    before = bait.state()
    for target in targets(host, "STRING"):
        if target.name == "run_name":
            with watch(bait.root) as touched:
                outcome, answer = tried.outcome(target, planted.name, is_linked=True)
            assert outcome == "refused" and "is a link that leaves" in answer
            assert not touched
    assert bait.state() == before


def test_links_within_a_run_are_followed(tried, host, planted):
    (planted / "weights").rename(planted / "weights_here")
    (planted / "weights").symlink_to(planted / "weights_here")
    target = Target("SePPOLoadRun", "run_name", "STRING")
    assert tried.outcome(target, planted.name, is_linked=False)[0] == "given"


def tar_of(path: Path, bait: Bait) -> None:
    """Members that go up, absolute ones, and links to the bait under harmless names."""
    way = f"../../{bait.root.name}/winners/a"
    with tarfile.open(path, "w") as archive:
        for name in (f"{way}.png", f"{bait.root}/winners/a.png", f"{way}.txt"):
            archive.addfile(tarfile.TarInfo(name))
        for name, kind in (("s.png", tarfile.SYMTYPE), ("h.txt", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, f"{way}{Path(name).suffix}"
            archive.addfile(member)


def test_winners_that_name_files_elsewhere_do_not_lead_there(tried, bait, host, elsewhere):
    """Links, metadata tables, tar members, playlists that pose as clips."""
    folder = host.base / "input" / "misleading"
    away, up = bait.root / "winners", f"../../{bait.root.name}/winners"
    draw(folder / "fine.png", "a fox")
    draw(folder / "no_words.png", None)
    for name in ("a.png", "a.txt", "b.json"):
        (folder / f"link_{name}").symlink_to(away / name)
    (folder / "no_words.txt").symlink_to(away / "a.txt")
    (folder / "linked").symlink_to(away, target_is_directory=True)
    rows = [
        {"file_name": f"{up}/a.png", "text": "x"},
        {"file_name": str(away / "a.png"), "text": "x"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    for name in ("list.mp4", "list.mkv"):
        (folder / name).write_text(f"ffconcat version 1.0\nfile {up}/a.png\n", "utf-8")
    (folder / "hls.mov").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{away}/a.png\n", "utf-8")
    tar_of(folder / "shard.tar", bait)
    before = bait.state()
    for reader in ("folder", "webdataset", "clips", "auto"):
        target = Target("SePPOLoadWinners", "folder", "STRING", (("reader", reader),))
        with watch(bait.root) as touched:
            outcome, answer = tried.outcome(target, folder.name, is_linked=False)
        assert not touched
        assert MARKER not in answer
        assert outcome == ("given" if reader in ("folder", "auto") else "refused")
    assert bait.state() == before
