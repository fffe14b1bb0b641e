"""Which node saved a picture, told by its name or its size."""

import re

from ..generation import NoPromptError
from .nodes import Graph, Node, number

SAVES = re.compile(r"save|preview|combine|output|websocket", re.IGNORECASE)
NO_PICTURE = re.compile(r"latent|audio|text|string|checkpoint|lora|model|clip|vae|3d|glb|any", re.I)
"""Kinds that save something else, where no input tells that they take pictures."""

PREVIEWS = re.compile(r"preview|websocket", re.IGNORECASE)
MAX_SAVES = 50

SHOWN = ("image", "images", "video", "frames", "pixels")
"""Inputs that bring finished pictures."""

PICTURES = (*SHOWN, "samples", "latent", "latent_image")
RESIZES = {"scale_by", "upscale_model", "crop_region", "megapixels"}
"""Inputs of nodes whose result has a size that the graph does not name."""

PREFIXES = ("filename_prefix", "save_prefix", "filename")
"""Inputs that hold what the file's name begins with."""

FILES = {*PREFIXES, "output_path", "file_name", "path"}
"""Inputs of which a node that writes files has one."""

NETWORKS = re.compile(r"model|unet|guider|latent.*|samples|(.*_)?(pipe|ctx|context|tuple)")
"""Inputs of which every node that draws has one linked, and no node that only saves."""

Size = tuple[int, int]
"""Width and height."""


def saving_nodes(graph: Graph, name: str) -> list[Node]:
    """The nodes that may have saved the file; the one whose prefix fits its name, where one does."""
    used = {link[0] for node in graph.nodes.values() for link in graph.links(node).values()}
    saves = [node for node in graph.nodes.values() if _saves(graph, node, used)]
    lasting = [node for node in saves if not _only_shows(node)]
    if lasting and "_temp_" not in name:
        saves = lasting
    if not saves:
        saves = _ends(graph, used)
    fits = [(_fit(graph, node, name), node) for node in saves]
    best = max((fit for fit, _ in fits), default=0)
    fitting = [node for fit, node in fits if fit == best]
    if len(fitting) > MAX_SAVES:
        raise NoPromptError(f"over {MAX_SAVES} nodes may have saved it")
    return fitting


def _saves(graph: Graph, node: Node, used: set[str]) -> bool:
    """Whether it saves or shows pictures; `used` are the nodes that others go on from."""
    links = graph.links(node)
    if "image_output" in node.inputs:  # of samplers that save by themselves
        return "save" in str(node.inputs["image_output"]).lower() or (
            node.id not in used and node.inputs["image_output"] != "Hide"
        )
    if not links.keys() & {*SHOWN}:
        return bool(links and "filename_prefix" in node.inputs and not NO_PICTURE.search(node.kind))
    if "filename_prefix" in node.inputs or only_saves(graph, node):
        return True
    return bool(SAVES.search(node.kind)) and ("save" in node.kind.lower() or node.id not in used)


def only_saves(graph: Graph, node: Node) -> bool:
    """Whether a node takes finished pictures and writes them, whatever texts it is given beside."""
    links = graph.links(node)
    return bool(
        links.keys() & {*SHOWN}
        and FILES & node.inputs.keys()
        and not any(map(NETWORKS.fullmatch, links))
    )


def _only_shows(node: Node) -> bool:
    shows = str(node.inputs.get("image_output", "save")).lower()
    return bool(PREVIEWS.search(node.kind)) or "save" not in shows


def _ends(graph: Graph, used: set[str]) -> list[Node]:
    """Nodes that take pictures and that nothing goes on from."""
    ends = [node for node in graph.nodes.values() if node.id not in used]
    return [node for node in ends if graph.links(node).keys() & {*PICTURES}]


def _fit(graph: Graph, node: Node, name: str) -> int:
    """How well the file's name fits the prefix that this node saves under; 0 is not at all."""
    prefix = graph.follow(next((node.inputs[key] for key in PREFIXES if key in node.inputs), None))
    if not isinstance(prefix, str):
        return 0
    stem = re.split(r"[/\\]", name)[-1].rpartition(".")[0]
    base = re.split(r"[/\\]", prefix)[-1]
    known = base.partition("%")[0]  # %date% and the like are filled in while it is saved
    if known == base and re.fullmatch(r"_\d+_?(-audio)?", stem.removeprefix(base)):
        return 1000 + len(base) if stem.startswith(base) else 0
    return len(known) if known and stem.startswith(known) else 0


def saved_size(graph: Graph, save: Node) -> Size | None:
    """The size of the picture that is saved, as the nearest node sets it; None where that is not plain."""
    node: Node | None = save
    seen: set[str] = set()
    while node and node.id not in seen and not node.inputs.keys() & RESIZES:
        seen.add(node.id)
        if {"width", "height"} <= node.inputs.keys():
            width, height = (number(graph, node, name) for name in ("width", "height"))
            return None if width is None or height is None else (int(width), int(height))
        links = graph.links(node).items()
        behind = graph.link(
            graph.follow(next((at for name, at in links if name.startswith(PICTURES)), None))
        )
        node = graph.nodes[behind[0]] if behind else None
    return None
