"""Which node saved the picture, which sampler made it, and with what settings."""

import re
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from ..generation import Generation, NoPromptError
from .nodes import Graph, Link, Node, answer, number
from .strings import NEGATIVE_TEXTS, bounded, text_value
from .texts import POSITIVE_TEXTS, conditioning_texts

SAVES = re.compile(r"save|preview|combine|output|websocket", re.IGNORECASE)
NO_PICTURE = re.compile(r"latent|audio|text|string|checkpoint|lora|model|clip|vae|3d|glb|any", re.I)
PREVIEWS = re.compile(r"preview|websocket", re.IGNORECASE)
MAX_SAVES = 50
MAX_EMPTY = 20
"""Samplers with an empty prompt that are passed on the way to one that has words."""

NO_SAMPLER = "no saved picture leads to a sampler"

POSITIVES = (
    *("positive", "conditioning", "guider", "cond1", "cond", "text_embeds", "basic_pipe"),
    *("pipe", "context", "sdxl_tuple"),
)
"""Inputs that bring what a sampler or a guider is to draw; the first that is there counts."""

NEGATIVES = ("negative", "text_embeds", "basic_pipe", "pipe", "context", "sdxl_tuple")

SAMPLING = {
    *("seed", "noise_seed", "noise", "sampler_name", "sampler", "steps", "sigmas", "latent_image"),
    "cfg",
}
"""Inputs of which every sampler has one."""

REPAIRS = re.compile(r"detailer|faceswap|segs", re.IGNORECASE)
"""Samplers that redraw a part; the picture was made before them."""

PICTURES = ("image", "images", "samples", "video", "frames", "pixels", "latent", "latent_image")
RESIZES = {"scale_by", "upscale_model", "crop_region", "megapixels"}
"""Inputs of nodes whose result has a size that the graph does not name."""

SIDEWAYS = {"vae", "clip", "model", "filename_prefix", "control_net", "clip_vision", "audio"}
"""Inputs that never lead to the sampler."""

MODEL_NAMES = (
    *("ckpt_name", "unet_name", "model_name", "base_ckpt_name", "ckpt_path", "unet_path"),
    *("gguf_name", "diffusion_model", "model"),
)


Size = tuple[int, int]
"""Width and height."""


def generation_of(
    values: Any, name: str, size_of_file: Callable[[], Size | None] = lambda: None
) -> Generation:
    """What a graph in the API format says of the picture called `name`. NoPromptError says why nothing.

    Where several pictures were saved and the name does not tell which this is, its size may:
    `size_of_file` is called only then.
    """
    graph = Graph(values)
    saves = saving_nodes(graph, name)
    try:
        return _agreed(graph, saves)
    except NoPromptError:
        actual = size_of_file() if len(saves) > 1 else None
        fitting = [save for save in saves if _size(graph, save) in (None, actual)]
        if actual is None or not 0 < len(fitting) < len(saves):
            raise
        return _agreed(graph, fitting)


def _agreed(graph: Graph, saves: list[Node]) -> Generation:
    """The generation of the pictures that these nodes save, if all of them have one prompt."""
    found: list[Generation] = []
    reasons: list[str] = []
    told: dict[str, Generation] = {}
    for save in saves:
        try:
            found.append(_made(graph, save, told))
        except NoPromptError as error:
            reasons.append(str(error))
    telling = [reason for reason in reasons if reason != NO_SAMPLER]
    if telling:
        raise NoPromptError(telling[0])
    if not found:
        raise NoPromptError(NO_SAMPLER)
    if len({generation.prompt for generation in found}) > 1:
        raise NoPromptError(
            f"{len(found)} nodes save pictures of different prompts, and neither its name nor its "
            "size tells which saved this one"
        )
    return found[0]


def _size(graph: Graph, save: Node) -> Size | None:
    """The size of the picture that is saved, as the nearest node sets it; None where that is not plain."""
    node: Node | None = save
    seen: set[str] = set()
    while node and node.id not in seen and not node.inputs.keys() & RESIZES:
        seen.add(node.id)
        if {"width", "height"} <= node.inputs.keys():
            width, height = (number(graph, node, name) for name in ("width", "height"))
            return None if width is None or height is None else (int(width), int(height))
        links = graph.links(node).items()
        node = _source(graph, next((at for name, at in links if name.startswith(PICTURES)), None))
    return None


def saving_nodes(graph: Graph, name: str) -> list[Node]:
    """The nodes that may have saved the file; the one whose prefix fits its name, where one does."""
    used = {link[0] for node in graph.nodes.values() for link in graph.links(node).values()}
    saves = [node for node in graph.nodes.values() if _saves(graph, node, used)]
    lasting = [node for node in saves if not PREVIEWS.search(node.kind)]
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
    if NO_PICTURE.search(node.kind) or not graph.links(node):
        return False
    if "filename_prefix" in node.inputs:
        return True
    shows = SAVES.search(node.kind) and ("save" in node.kind.lower() or node.id not in used)
    return bool(shows and node.inputs.keys() & {*PICTURES})


def _ends(graph: Graph, used: set[str]) -> list[Node]:
    """Nodes that take pictures and that nothing goes on from."""
    ends = [node for node in graph.nodes.values() if node.id not in used]
    return [node for node in ends if graph.links(node).keys() & {*PICTURES}]


def _fit(graph: Graph, node: Node, name: str) -> int:
    """How well the file's name fits the prefix that this node saves under; 0 is not at all."""
    prefix = graph.follow(node.inputs.get("filename_prefix"))
    if not isinstance(prefix, str):
        return 0
    stem = re.split(r"[/\\]", name)[-1].rpartition(".")[0]
    base = re.split(r"[/\\]", prefix)[-1]
    known = base.partition("%")[0]  # %date% and the like are filled in while it is saved
    if known == base and re.fullmatch(r"_\d+_?(-audio)?", stem.removeprefix(base)):
        return 1000 + len(base) if stem.startswith(base) else 0
    return len(known) if known and stem.startswith(known) else 0


def _made(graph: Graph, save: Node, told: dict[str, Generation]) -> Generation:
    """What made the picture: the first node upstream that draws by a text which is not empty.

    `told` keeps what nodes have told already, by their ids.
    """
    empty = 0
    for node in _upstream(graph, save):
        read = _drawing(graph, node)
        if read is None:
            continue
        if node.id not in told:
            told[node.id] = read(graph, node)
        if told[node.id].prompt:
            return told[node.id]
        empty += 1
        if empty == MAX_EMPTY:
            break
    raise NoPromptError("its prompt is empty" if empty else NO_SAMPLER)


def _upstream(graph: Graph, start: Node) -> Iterator[Node]:
    """Every node that `start` depends on, nearest first, pictures before other inputs."""
    waiting, seen = deque([start]), {start.id}
    while waiting:
        node = waiting.popleft()
        yield node
        links = {name: link for name, link in graph.links(node).items() if name not in SIDEWAYS}
        for name in sorted(links, key=lambda name: name not in PICTURES):
            behind = graph.link(graph.follow(links[name]))
            if behind and behind[0] not in seen:
                seen.add(behind[0])
                waiting.append(graph.nodes[behind[0]])


def _drawing(graph: Graph, node: Node) -> Callable[[Graph, Node], Generation] | None:
    """How to read this node, if it draws pictures by a text."""
    if REPAIRS.search(node.kind):
        return None
    links = graph.links(node)
    if any(name in links for name in POSITIVES) and SAMPLING & set(node.inputs):
        return _sampled
    prompted = any(isinstance(node.inputs.get(name), (str, list)) for name in PROMPTS)
    return _ordered if prompted and not links.keys() & {"clip", *POSITIVES} else None


PROMPTS = ("prompt", "positive_prompt", "text_prompt", "prompt_text")
"""Inputs of nodes that draw by themselves, as those of outside services do."""


def _sampled(graph: Graph, node: Node) -> Generation:
    links = graph.links(node)
    guider = _source(graph, links.get("guider"))
    drawn = guider if guider and graph.links(guider) else node
    sides = graph.links(drawn)
    positive = next((sides[name] for name in POSITIVES if name in sides), None)
    if positive is None:
        raise NoPromptError(f"{drawn} is given no conditioning")
    negative = next((sides[name] for name in NEGATIVES if name in sides), None)
    return Generation(
        prompt=_prompt(graph, positive, "positive"),
        negative=_negative(graph, negative),
        **_settings(graph, node, drawn),
    )


def _prompt(graph: Graph, link: Link, side: str) -> str:
    parts = answer(graph, (conditioning_texts, link, side))
    return bounded(
        ", ".join(part.rstrip(" ,") for part in parts) if len(parts) > 1 else "".join(parts)
    )


def _negative(graph: Graph, link: Link | None) -> str:
    """Empty where it cannot be told: no caption depends on it."""
    try:
        return _prompt(graph, link, "negative") if link else ""
    except NoPromptError:
        return ""


def _ordered(graph: Graph, node: Node) -> Generation:
    """The prompt of a node that draws by itself."""

    def text(names: tuple[str, ...]) -> str:
        name = next((name for name in names if _holds_text(graph, node, name)), None)
        return answer(graph, (text_value, node.id, name)).strip() if name else ""

    try:
        negative = text(NEGATIVE_TEXTS)
    except NoPromptError:
        negative = ""
    prompt = text(tuple(dict.fromkeys((*PROMPTS, *POSITIVE_TEXTS))))
    return Generation(prompt, negative, **_settings(graph, node, node))


def _holds_text(graph: Graph, node: Node, name: str) -> bool:
    value = node.inputs.get(name)
    return isinstance(value, str) or graph.link(value) is not None


def _settings(graph: Graph, node: Node, guider: Node) -> dict[str, Any]:
    links = graph.links(node)
    noise, sampler = (_source(graph, links.get(name)) for name in ("noise", "sampler"))
    sources = [node, noise, sampler, guider, *_schedule(graph, links.get("sigmas"))]
    seed = _number(graph, sources[:2], ("seed", "noise_seed"))
    steps = _number(graph, sources, ("steps",))
    return {
        "seed": None if seed is None else int(seed),
        "steps": None if steps is None else int(steps),
        "cfg": _number(graph, sources, ("cfg", "cfg_conds", "cfg_scale", "guidance_scale")),
        "sampler": _word(graph, [node, sampler], ("sampler_name",)),
        "scheduler": _word(graph, sources, ("scheduler",)),
        "model": _model(graph, node, guider),
    }


def _source(graph: Graph, link: Link | None) -> Node | None:
    behind = graph.link(graph.follow(link))
    return graph.nodes[behind[0]] if behind else None


def _schedule(graph: Graph, link: Link | None) -> list[Node]:
    """The nodes that noise levels come from, nearest first."""
    start = _source(graph, link)
    return list(islice(_upstream(graph, start), 20)) if start else []


def _number(graph: Graph, nodes: list[Node | None], names: tuple[str, ...]) -> float | None:
    asked = ((node, name) for node in nodes if node for name in names if name in node.inputs)
    found = (number(graph, node, name) for node, name in asked)
    return next((value for value in found if value is not None), None)


def _word(graph: Graph, nodes: list[Node | None], names: tuple[str, ...]) -> str | None:
    asked = ((node, name) for node in nodes if node for name in names if name in node.inputs)
    found = (graph.follow(node.inputs[name]) for node, name in asked)
    return next((value for value in found if isinstance(value, str)), None)


def _model(graph: Graph, node: Node, guider: Node) -> str | None:
    """The file of the network, along the links named after it."""
    waiting = deque([guider, node])
    seen = {guider.id, node.id}
    while waiting:
        node = waiting.popleft()
        name = _word(graph, [node], MODEL_NAMES)
        if name:
            return name
        for label, link in graph.links(node).items():
            behind = graph.link(graph.follow(link))
            if label.startswith(MODEL_LINKS) and behind and behind[0] not in seen:
                seen.add(behind[0])
                waiting.append(graph.nodes[behind[0]])
    return None


MODEL_LINKS = ("model", "unet", "basic_pipe", "pipe", "context", "sdxl_tuple")
