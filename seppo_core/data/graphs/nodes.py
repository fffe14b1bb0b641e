"""A graph in ComfyUI's API format, read without trust; and a way to ask it that no depth can break."""

import re
from collections.abc import Generator
from typing import Any, NamedTuple

from ..generation import NoPromptError

MAX_NODES = 50_000
MAX_LOOKS = 200_000
"""Nodes looked at, over and over, until a graph counts as one that cannot be read."""

Link = tuple[str, int]
"""Id of a node, and which of its outputs."""

CIRCLE = "the graph runs in a circle"

ROUTES = re.compile(r"reroute|primitive|^(get|set)node$|setget|passthrough", re.IGNORECASE)
"""Kinds of nodes that hand on what they get."""

SWITCHES = re.compile(r"switch|select|ifelse|branch", re.IGNORECASE)
CHOICES = (
    *("switch", "boolean", "bool", "condition", "cond", "select", "index", "Input", "input"),
    "choice",
)
"""Names under which a switch keeps its choice."""

BRANCHES = {
    True: ("on_true", "if_true", "true", "tt_value", "text_a", "conditioning_a"),
    False: ("on_false", "if_false", "false", "ff_value", "text_b", "conditioning_b"),
}

UNTYPED = {"*", ""}
WORDY = {"STRING", "TEXT", "ASCII", "INT", "FLOAT", "BOOLEAN", "COMBO", "SEED", "NUMBER"}
"""Types of outputs that text can be made of."""

MACHINES = re.compile(
    r"clip|model|vae|unet|pipe|ctx|context|tuple|cond|image|pixels|latent|samples|embeds|encoder|net$",
    re.IGNORECASE,
)
"""Inputs that bring no words: a node that has one linked gives more than text."""

FILES = re.compile(r"(ckpt|unet|clip|model|checkpoint|vae)(_name)?\d*|(ckpt|unet)_path")
"""Inputs that name the file of a network."""

ENCODES = re.compile(r"encode|conditioning", re.IGNORECASE)
"""Kinds that give more than text, whatever is linked."""

WORDS = re.compile(r"text|string|prompt|caption|words|tags", re.IGNORECASE)
"""Inputs that take words, whoever gives them."""


class Node(NamedTuple):
    id: str
    kind: str
    inputs: dict[str, Any]
    gives: tuple[str, ...] = ()
    """types of its outputs, where the editor's graph tells them"""

    def __str__(self) -> str:
        return f"node {self.id[:40]} ({self.kind[:60]})"


class Graph:
    """The nodes by their ids. NoPromptError if there are none, or too many."""

    def __init__(self, values: Any) -> None:
        found = values.items() if isinstance(values, dict) else ()
        self.nodes = {str(key): node for key, value in found if (node := _node(str(key), value))}
        if not self.nodes:
            raise NoPromptError("its text is no graph of ComfyUI")
        if len(self.nodes) > MAX_NODES:
            raise NoPromptError(f"its graph has over {MAX_NODES} nodes")
        self._links: dict[str, dict[str, Link]] = {}
        self._behind: dict[tuple[Link, bool], Any] = {}
        self._machines: set[str] | None = None
        self._looks = 0
        self.results: dict[Question, Any] = {}
        """of every question that was asked of the graph: pass after pass asks the same"""

    def look(self) -> None:
        """Count a node that is looked at; NoPromptError once it were too many."""
        self._looks += 1
        if self._looks > MAX_LOOKS:
            raise NoPromptError("its graph is too tangled to be read")

    def link(self, value: Any) -> Link | None:
        """The link that an input's value is; None for anything else, or for a node that is not there."""
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            return None
        node, slot = value
        if not isinstance(node, (str, int)) or not isinstance(slot, int) or slot < 0:
            return None
        return (str(node), slot) if str(node) in self.nodes else None

    def links(self, node: Node) -> dict[str, Link]:
        """The inputs of a node that come from other nodes."""
        if node.id not in self._links:
            every = ((name, self.link(value)) for name, value in node.inputs.items())
            self._links[node.id] = {name: link for name, link in every if link}
        return self._links[node.id]

    def brings_text(self, link: Link) -> bool:
        """Whether what comes through a link is text: nothing but texts and numbers lead to it."""
        behind = self.link(self.follow(link))
        if behind is None:
            return True
        gives = self.nodes[behind[0]].gives
        if 0 <= behind[1] < len(gives) and gives[behind[1]] not in UNTYPED:
            return gives[behind[1]] in WORDY
        if self._machines is None:
            self._machines = self._all_machines()
        return behind[0] not in self._machines

    def _all_machines(self) -> set[str]:
        """The nodes that networks, pictures or conditionings lead to, but through inputs for words."""
        users: dict[str, list[str]] = {}
        waiting: list[str] = []
        for node in self.nodes.values():
            links = self.links(node)
            given = any(map(MACHINES.search, links)) or any(map(FILES.fullmatch, node.inputs))
            if given or ENCODES.search(node.kind):
                waiting.append(node.id)
            for name, (source, _) in links.items():
                if not WORDS.search(name):
                    users.setdefault(source, []).append(node.id)
        found = set(waiting)
        while waiting:
            fresh = [user for user in users.get(waiting.pop(), ()) if user not in found]
            found.update(fresh)
            waiting += fresh
        return found

    def follow(self, value: Any, through_switches: bool = True) -> Any:
        """What stands behind reroutes, primitives and switches: a literal, or a link to another node."""
        way: dict[tuple[Link, bool], Any] = {}
        while link := self.link(value):
            step = (link, through_switches)
            value = self._behind.get(step)
            if value is not None:
                break
            if step in way:
                raise NoPromptError(CIRCLE)
            way[step] = None
            value = self._passed(self.nodes[link[0]], through_switches)
            if value is None:
                value = link
                break
        self._behind |= dict.fromkeys(way, value)
        return value

    def _passed(self, node: Node, through_switches: bool) -> Any:
        """What this node hands on; None if it makes something of its own."""
        if through_switches and SWITCHES.search(node.kind):
            return self._chosen(node)
        return _handed_on(node)

    def _chosen(self, node: Node) -> Any:
        """The value of the branch that a switch takes; None if its choice is not plain to see."""
        names = [name for name in CHOICES if name in node.inputs]
        if not names:
            ordered = sorted(self.links(node))
            first = re.search(r"any|rgthree", node.kind, re.IGNORECASE)
            return node.inputs[ordered[0]] if ordered and first else None
        choice = self.follow(node.inputs[names[0]], through_switches=False)
        if isinstance(choice, bool):
            branches = (node.inputs.get(name) for name in BRANCHES[choice])
            return next((value for value in branches if value is not None), None)
        if not isinstance(choice, (int, str)) or not re.fullmatch(r"\d{1,4}", str(choice)):
            return None
        for name, value in node.inputs.items():
            number = re.search(r"(\d{1,4})$", name)
            if number and int(number[1]) == int(choice):
                return value
        return None


def _node(key: str, value: Any) -> Node | None:
    if not isinstance(value, dict) or not isinstance(value.get("class_type"), str):
        return None
    given = value.get("inputs")
    inputs: dict[str, Any] = {}
    for name, content in given.items() if isinstance(given, dict) else ():
        inputs.setdefault(
            str(name).rpartition(".")[2], content
        )  # "model.prompt" of a dynamic input
    gives = value.get("gives")
    types = gives if isinstance(gives, list) else []
    return Node(key, value["class_type"], inputs, tuple(map(str, types)))


def _handed_on(node: Node) -> Any:
    if not ROUTES.search(node.kind):
        return None
    if "value" in node.inputs:
        return node.inputs["value"]
    return next(iter(node.inputs.values())) if len(node.inputs) == 1 else None


def number(graph: Graph, node: Node, name: str) -> int | float | None:
    """The number an input holds, also through primitives; None if there is none to see."""
    value = graph.follow(node.inputs.get(name))
    link = graph.link(value)
    if link:
        source = graph.nodes[link[0]]
        candidates = ("value", name, "seed", "noise_seed", "int", "float", "number")
        found = (source.inputs.get(candidate) for candidate in candidates)
        value = next((item for item in found if _as_number(item) is not None), None)
    return _as_number(value)


def _as_number(value: Any) -> int | float | None:
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,20}(\.\d{1,20})?", value):
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < 1e30 else None


Question = tuple[Any, ...]
"""A function and what it is asked about: (function, *arguments), hashable."""

Answering = Generator[Question, Any, Any]
"""Yields questions, is sent their answers, and returns its own."""


def answer(graph: Graph, question: Question) -> Any:
    """Run `question[0](graph, *question[1:])`, a generator, and all that it asks, on a stack of our own.

    Every question is answered once for a graph. One that leads back to itself gets NoPromptError; errors are thrown
    into whoever asked.
    """
    results = graph.results
    if question in results:
        return _given(results[question])
    stack: list[tuple[Question, Answering]] = [(question, question[0](graph, *question[1:]))]
    waiting = {question}
    result: Any = None
    while stack:
        asking, running = stack[-1]
        try:
            step = _throw if isinstance(result, NoPromptError) else _send
            asked = step(running, result)
        except StopIteration as done:
            result = done.value
        except NoPromptError as error:
            result = error.with_traceback(None)
        else:
            if asked in results:
                result = results[asked]
            elif asked in waiting:
                result = NoPromptError(CIRCLE)
            else:
                waiting.add(asked)
                stack.append((asked, asked[0](graph, *asked[1:])))
                result = None
            continue
        results[asking] = result
        waiting.discard(asking)
        stack.pop()
    return _given(result)


def _given(result: Any) -> Any:
    if isinstance(result, NoPromptError):
        raise NoPromptError(*result.args)
    return result


def _send(running: Answering, value: Any) -> Question:
    return running.send(value)


def _throw(running: Answering, error: NoPromptError) -> Question:
    return running.throw(NoPromptError(*error.args))
