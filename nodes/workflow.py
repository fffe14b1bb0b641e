"""What the page's workflow and the queued graph say of a node: its panel, and the nodes before it.

Whatever a client sent stands there, so nothing is taken for granted.
"""

from collections.abc import Iterator
from typing import Any


def panel_of(workflow: Any, node_id: str) -> str:
    """The name of node `node_id`'s panel in the page's workflow, which the page keeps in the node's properties.

    Inside subgraphs an id is a path, "4:1": node 1 in the definition that node 4 is of. Empty for whatever is no
    workflow of a page: a client may send anything.
    """
    graph, (*path, wanted) = workflow, str(node_id).split(":")
    definitions = _rows(field(workflow, "definitions"), "subgraphs")
    for step in path:
        kind = field(_with_id(_rows(graph, "nodes"), step), "type")
        graph = _with_id(definitions, str(kind))
    node = _with_id(_rows(graph, "nodes"), wanted)
    if field(node, "type") != "SePPOTrain":
        return ""
    return str(field(field(node, "properties"), "seppo_panel") or "")[:64]


def ancestors(prompt: dict[str, Any], node_id: str) -> Iterator[str]:
    """Ids of the nodes of a queued graph that this one needs, each once."""
    seen, waiting = {node_id}, [node_id]
    while waiting:
        for value in prompt[waiting.pop()].get("inputs", {}).values():
            linked = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
            if linked and value[0] in prompt and value[0] not in seen:
                seen.add(value[0])
                waiting.append(value[0])
                yield value[0]


def _rows(value: Any, name: str) -> list[Any]:
    rows = field(value, name)
    return rows if isinstance(rows, list) else []


def _with_id(rows: list[Any], wanted: str) -> Any:
    return next((row for row in rows if str(field(row, "id")) == wanted), None)


def field(value: Any, name: str) -> Any:
    """Of an object; None of whatever is none."""
    return value.get(name) if isinstance(value, dict) else None
