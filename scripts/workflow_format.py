"""Tables of nodes to the page's own workflow files, format 0.4: places, slots, links, widget values by order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEEDS = {"seed", "noise_seed"}
ACTIVE, MUTED = 0, 2

WIDTH, COLUMN_GAP, ROW_GAP, GROUP_GAP, MARGIN = 340, 60, 70, 60, 30
TITLE_ROOM, SLOT_ROOM, WIDGET_ROOM, TEXT_ROOM = 40, 22, 28, 110
GROUP_COLORS = ("#3f789e", "#8A8", "#a1309b", "#b58b2a", "#88A")


class Link(NamedTuple):
    """What an input is connected to."""

    node: str
    output: str


@dataclass(frozen=True)
class Node:
    kind: str
    inputs: dict[str, Any] = field(default_factory=dict)
    """Links and widget values by input id; widgets not named keep the node's default."""
    title: str = ""
    width: int = WIDTH
    room: int = 0
    """Pixels kept free below the widgets, for the picture that the node shows."""
    control: str = "fixed"
    """What the page does with the node's seed after a run."""
    models: tuple[dict[str, str], ...] = ()
    """Files that the page offers to load if they are missing: name, url, directory."""
    text: str = ""
    """Only of a note: what it says, as Markdown."""


@dataclass(frozen=True)
class Group:
    """A titled frame around columns of nodes, each from top to bottom; keys name nodes for links."""

    title: str
    columns: tuple[dict[str, Node], ...]
    muted: bool = False


class Input(NamedTuple):
    """One input of a node, as /object_info tells it."""

    name: str
    type: str
    optional: bool
    default: Any
    settings: dict[str, Any]

    @property
    def is_widget(self) -> bool:
        return self.type in WIDGETS and not self.settings.get("forceInput")

    @property
    def has_control(self) -> bool:
        """Whether the page adds the widget "control after generate", whose value follows."""
        return bool(self.settings.get("control_after_generate", self.name in SEEDS))


def inputs_of(info: dict[str, Any]) -> Iterator[Input]:
    """A node's inputs in the order of its widgets; `info` is its entry in /object_info."""
    for section in ("required", "optional"):
        for name in info["input_order"].get(section, []):
            kind, *rest = info["input"][section][name]
            settings = rest[0] if rest else {}
            options = kind if isinstance(kind, list) else settings.get("options", [])
            default = settings.get("default", options[0] if options else None)
            type_ = "COMBO" if isinstance(kind, list) else kind
            yield Input(name, type_, section == "optional", default, settings)


def height(node: Node, info: dict[str, Any] | None) -> int:
    """Pixels below the title bar."""
    if info is None:
        return node.room
    inputs = list(inputs_of(info))
    widgets = [one for one in inputs if one.is_widget]
    slots = max(len(inputs) - len(widgets), len(info["output"]))
    texts = sum(bool(one.settings.get("multiline")) for one in widgets)
    rows = len(widgets) + sum(one.has_control for one in widgets)
    return 14 + slots * SLOT_ROOM + rows * WIDGET_ROOM + texts * TEXT_ROOM + node.room


def build(groups: list[Group], definitions: dict[str, Any]) -> dict[str, Any]:
    """The workflow file of `groups`; `definitions` is a host's /object_info."""
    nodes, frames = place(groups, definitions)
    ids = {key: number for number, key in enumerate(nodes, 1)}
    links: list[list[Any]] = []
    written = [
        write(key, node, placed, ids, nodes, definitions, links)
        for key, (node, placed) in nodes.items()
    ]
    for entry in written:
        for slot, output in enumerate(entry["outputs"]):
            output["links"] = [k for k, *source in links if source[:2] == [entry["id"], slot]]
    return {
        "last_node_id": len(written),
        "last_link_id": len(links),
        "nodes": written,
        "links": links,
        "groups": frames,
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def place(
    groups: list[Group], definitions: dict[str, Any]
) -> tuple[dict[str, tuple[Node, dict[str, Any]]], list[dict[str, Any]]]:
    """Every node with its place, and the groups' frames: left to right, no two overlap."""
    nodes: dict[str, tuple[Node, dict[str, Any]]] = {}
    frames: list[dict[str, Any]] = []
    x = 0
    for number, group in enumerate(groups):
        left, bottom = x, 0
        x += MARGIN
        for column in group.columns:
            y = MARGIN + 2 * TITLE_ROOM
            for key, node in column.items():
                tall = height(node, definitions.get(node.kind))
                nodes[key] = (
                    node,
                    {
                        "pos": [x, y],
                        "size": [node.width, tall],
                        "mode": MUTED if group.muted else ACTIVE,
                    },
                )
                y += tall + ROW_GAP
            bottom = max(bottom, y - ROW_GAP)
            x += max(node.width for node in column.values()) + COLUMN_GAP
        x += MARGIN - COLUMN_GAP
        frames.append(
            {
                "id": number + 1,
                "title": group.title,
                "bounding": [left, 0, x - left, bottom + MARGIN],
                "color": GROUP_COLORS[number % len(GROUP_COLORS)],
                "font_size": 24,
                "flags": {},
            }
        )
        x += GROUP_GAP
    return nodes, frames


def write(
    key: str,
    node: Node,
    placed: dict[str, Any],
    ids: dict[str, int],
    nodes: dict[str, Any],
    definitions: dict[str, Any],
    links: list[list[Any]],
) -> dict[str, Any]:
    """One node of the file; the links that end in it are added to `links`."""
    entry = {"id": ids[key], "type": node.kind, **placed, "flags": {}, "order": ids[key] - 1}
    if node.title:
        entry["title"] = node.title
    if node.kind not in definitions:
        note_colors = {"color": "#432", "bgcolor": "#653"}
        empty = {"inputs": [], "outputs": [], "properties": {}}
        return {**entry, **empty, "widgets_values": [node.text], **note_colors}

    info = definitions[node.kind]
    inputs = list(inputs_of(info))
    if unknown := set(node.inputs) - {one.name for one in inputs}:
        raise KeyError(f"{node.kind} ({key}) has no input {sorted(unknown)}")
    slots, values = [], []
    for one in sorted(inputs, key=lambda one: one.is_widget):
        given = node.inputs.get(one.name, one.default)
        slot = {"name": one.name, "type": one.type, "link": None}
        if one.optional:
            slot["shape"] = 7
        if one.is_widget:
            slot["widget"] = {"name": one.name}
        if isinstance(given, Link):
            source = definitions[nodes[given.node][0].kind]
            output = source["output_name"].index(given.output)
            kind = source["output"][output]
            slot["link"] = len(links) + 1
            links.append([slot["link"], ids[given.node], output, entry["id"], len(slots), kind])
            given = one.default
        slots.append(slot)
        if one.is_widget:
            values += [given, node.control] if one.has_control else [given]
    names = zip(info["output_name"], info["output"], strict=True)
    properties: dict[str, Any] = {"Node name for S&R": node.kind}
    if node.models:
        properties["models"] = list(node.models)
    return {
        **entry,
        "inputs": slots,
        "outputs": [{"name": name, "type": kind, "links": []} for name, kind in names],
        "properties": properties,
        "widgets_values": values,
    }
