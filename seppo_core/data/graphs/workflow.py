"""A graph as ComfyUI's editor saves it, brought into the API format as far as the way to a prompt needs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..generation import NoPromptError
from .nodes import MAX_NODES
from .widgets import AFTER_SEED, PLAIN, WIDGETS

MAX_DEPTH = 20
"""Subgraphs within subgraphs."""

MUTED, BYPASSED = 2, 4
OUTSIDE_IN, OUTSIDE_OUT = -10, -20
"""Ids that a subgraph's own inputs and outputs have in its links."""

Api = dict[str, dict[str, Any]]


@dataclass
class Scope:
    """One graph or one use of a subgraph."""

    prefix: str
    depth: int
    origins: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    """link -> node and output it comes from"""
    indirect: set[str] = field(default_factory=set)
    """nodes whose every output is a node of its own in what we make"""


def api_graph(workflow: Any) -> Api:
    """The nodes by their ids; one within subgraphs is "outer:inner". NoPromptError if it is no workflow."""
    if not isinstance(workflow, dict) or not isinstance(workflow.get("nodes"), list):
        raise NoPromptError("its text is no workflow of ComfyUI")
    definitions = workflow.get("definitions")
    inner = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    subgraphs = {sub["id"]: sub for sub in _dicts(inner) if isinstance(sub.get("id"), str)}
    api: Api = {}
    waiting = [(workflow, "", 0)]
    count = 0
    while waiting:
        graph, prefix, depth = waiting.pop()
        count += 1 + len(_dicts(graph.get("nodes")))
        if depth > MAX_DEPTH or count > MAX_NODES:
            raise NoPromptError("its workflow has too many nodes or subgraphs within each other")
        waiting += _flatten(graph, Scope(prefix, depth), subgraphs, api)
    return api


def typed(graph: Any, workflow: Any) -> Any:
    """A graph in the API format with the types of outputs that the editor's graph of it tells."""
    try:
        drawn = api_graph(workflow)
    except NoPromptError:
        return graph
    for key, node in graph.items():
        same = drawn.get(key, {})
        if isinstance(node, dict) and same.get("class_type") == node.get("class_type"):
            node.setdefault("gives", same.get("gives"))
    return graph


def _dicts(values: Any) -> list[dict[str, Any]]:
    return (
        [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
    )


def _hashable(value: Any) -> bool:
    return isinstance(value, (str, int))


def _links(values: Any) -> Iterator[tuple[Any, Any, Any, Any, Any]]:
    """(link, from node, its output, to node, its input) of either way to write them."""
    for value in values if isinstance(values, list) else ():
        if isinstance(value, dict):
            names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
            value = [value.get(name) for name in names]
        if isinstance(value, list) and len(value) >= 5 and all(map(_hashable, value[:5])):
            yield tuple(value[:5])


def _usable(values: Any) -> list[dict[str, Any]]:
    """The nodes that have an id and a type, and are not muted."""
    return [
        node
        for node in _dicts(values)
        if _hashable(node.get("id"))
        and isinstance(node.get("type"), str)
        and node.get("mode") != MUTED
    ]


def _flatten(
    graph: dict[str, Any], scope: Scope, subgraphs: dict[str, Any], api: Api
) -> list[tuple[dict[str, Any], str, int]]:
    """Add the nodes of one graph to `api`; gives the subgraphs that it uses."""
    nodes = _usable(graph.get("nodes"))
    links = list(_links(graph.get("links")))
    scope.origins = {link: (node, slot) for link, node, slot, _, _ in links}
    scope.indirect = {
        str(node["id"])
        for node in nodes
        if node["type"] in subgraphs or node.get("mode") == BYPASSED
    }
    sets = {_first_widget(node): node["id"] for node in nodes if node["type"] == "SetNode"}
    inner = []
    for node in nodes:
        key = f"{scope.prefix}{node['id']}"
        inputs = _inputs(node, scope, subgraphs, api)
        if node.get("mode") == BYPASSED:
            _bypass(node, key, inputs, api)
        elif node["type"] in subgraphs:
            _enter(subgraphs[node["type"]], key, inputs, api)
            inner.append((subgraphs[node["type"]], f"{key}:", scope.depth + 1))
        elif node["type"] == "GetNode":
            source = sets.get(_first_widget(node))
            value = [f"{scope.prefix}{source}", 0] if source is not None else None
            api[key] = {"class_type": "GetNode", "inputs": {"value": value}}
        else:
            types = [output.get("type") for output in _dicts(node.get("outputs"))]
            api[key] = {"class_type": node["type"], "inputs": inputs, "gives": types}
    _leave(links, scope, api)
    return inner


def _leave(links: list[tuple[Any, ...]], scope: Scope, api: Api) -> None:
    """What a subgraph gives back, for its use outside to be linked to."""
    outer = scope.prefix.removesuffix(":")
    for link, _, _, target, slot in links:
        if target == OUTSIDE_OUT and outer:
            _hand_on(api, f"{outer}#{slot}", _source(link, scope))


def _hand_on(api: Api, key: str, value: Any) -> None:
    api[key] = {"class_type": "Reroute", "inputs": {"value": value}}


def _source(link: Any, scope: Scope) -> list[Any] | None:
    """The link in the API's way: [node, output]."""
    if not _hashable(link) or link not in scope.origins:
        return None
    node, slot = scope.origins[link]
    if node == OUTSIDE_IN:
        return [f"{scope.prefix.removesuffix(':')}@{slot}", 0]
    key = f"{scope.prefix}{node}"
    return [f"{key}#{slot}", 0] if str(node) in scope.indirect else [key, slot]


def _inputs(
    node: dict[str, Any], scope: Scope, subgraphs: dict[str, Any], api: Api
) -> dict[str, Any]:
    """Values of a node's widgets, then its links; a link to what nobody gave from outside changes nothing."""
    inputs = _widget_values(node, subgraphs.get(node["type"]))
    outside = f"{scope.prefix.removesuffix(':')}@"
    for given in _dicts(node.get("inputs")):
        source = _source(given.get("link"), scope)
        if source is None or not isinstance(given.get("name"), str):
            continue
        if source[0] in api or not source[0].startswith(outside):
            inputs[given["name"]] = source
    return inputs


def _widget_values(node: dict[str, Any], subgraph: dict[str, Any] | None) -> dict[str, Any]:
    """The values of a node's widgets by their names."""
    named = node.get("widgets_values_named")
    values = named if isinstance(named, dict) else node.get("widgets_values")
    if isinstance(values, dict):
        return {str(name): value for name, value in values.items() if not isinstance(value, list)}
    if not isinstance(values, list):
        return {}
    if node["type"] in WIDGETS:
        return _paired(WIDGETS[node["type"]].split(), values)
    listed = [
        given for given in _dicts(node.get("inputs")) if isinstance(given.get("widget"), dict)
    ]
    every = [
        given for given in _dicts((subgraph or {}).get("inputs")) if str(given.get("type")) in PLAIN
    ]
    for names in (
        [given["widget"].get("name") for given in listed],
        [i.get("name") for i in every],
    ):
        if names and len(names) == len([v for v in values if not _follows_seed(v)]):
            return _paired(names, values)
    return {} if subgraph else _sentence(node, values)


def _follows_seed(value: Any) -> bool:
    return isinstance(value, str) and value in AFTER_SEED


def _sentence(node: dict[str, Any], values: list[Any]) -> dict[str, Any]:
    """Of values without names the first of several words; it is a prompt if the node gives pictures."""
    gives = {str(output.get("type")) for output in _dicts(node.get("outputs"))}
    draws = bool(gives & {"IMAGE", "VIDEO"})
    linked = (i for i in _dicts(node.get("inputs")) if i.get("link") is not None)
    if not draws and any(i.get("type") == "STRING" for i in linked):
        return {}  # the words may be those that the linked text replaces, or another input's
    text = next((v for v in values if isinstance(v, str) and len(v.split(maxsplit=4)) > 3), None)
    if text is None:
        texts = [value for value in values if isinstance(value, str)]
        return {"text": texts[0]} if len(texts) == 1 else {}
    return {"prompt" if draws else "text": text}


def _paired(names: list[Any], values: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rest = iter(values)
    after_seed = False
    for name in names:
        value = next(rest, None)
        if after_seed and _follows_seed(value):
            value = next(rest, None)
        after_seed = isinstance(name, str) and "seed" in name
        if isinstance(name, str) and not isinstance(value, list) and value is not None:
            found[name] = value
    return found


def _first_widget(node: dict[str, Any]) -> str:
    values = node.get("widgets_values")
    return str(values[0]) if isinstance(values, list) and values else ""


def _enter(subgraph: dict[str, Any], key: str, inputs: dict[str, Any], api: Api) -> None:
    """What the use of a subgraph gives to its inputs, by their names."""
    for slot, given in enumerate(_dicts(subgraph.get("inputs"))):
        value = inputs.get(given.get("name")) if isinstance(given.get("name"), str) else None
        if value is not None:
            _hand_on(api, f"{key}@{slot}", value)


def _bypass(node: dict[str, Any], key: str, inputs: dict[str, Any], api: Api) -> None:
    """Each output hands on an input of its type, at the same place or else the first."""
    given = _dicts(node.get("inputs"))
    for slot, output in enumerate(_dicts(node.get("outputs"))):
        same = [item for item in given if item.get("type") == output.get("type")]
        here = [item for item in given[slot : slot + 1] if item in same]
        for item in (here or same)[:1]:
            if isinstance(item.get("name"), str):
                _hand_on(api, f"{key}#{slot}", inputs.get(item["name"]))
