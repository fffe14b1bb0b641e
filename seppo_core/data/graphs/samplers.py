"""What a node that draws pictures tells: by which texts, with what settings, from how much noise."""

import re
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from ..generation import Generation, NoPromptError
from .nodes import Graph, Link, Node, answer, number
from .saves import only_saves
from .strings import NEGATIVE, bounded, text_value
from .texts import bundle_of, conditioning_texts, side_of, sided, text_names

CONDITIONINGS = ("conditioning", "guider", "cond1", "cond", "text_embeds")
"""Inputs that bring what a sampler or a guider is to draw, where it has none for each side."""

SAMPLING = {
    *("seed", "noise_seed", "noise", "sampler_name", "sampler", "steps", "sigmas", "latent_image"),
    "cfg",
}
"""Inputs of which every sampler has one."""

NO_PASSES = re.compile(
    r"detailer|faceswap|segs|unsampler|provider|^context|contextbig|\bbus\b|sdxl tuple"
    r"|pipe(in|edit|out)|(to|edit)(basic|detailer)pipe",
    re.IGNORECASE,
)
"""Kinds that take the inputs of samplers and draw no whole picture: they redraw a part, or hand on."""

FOREIGN = re.compile(r"clip|model|unet|.*cond.*|guider|(.*_)?(pipe|ctx|tuple)|.*(clip|model)_.*")
"""Inputs of which a node that draws by itself, as those of outside services do, has none linked."""

PROMPTS = ("prompt", "positive_prompt", "text_prompt", "prompt_text")
"""Inputs of nodes that draw by themselves."""

MODEL_NAMES = (
    *("ckpt_name", "unet_name", "model_name", "base_ckpt_name", "ckpt_path", "unet_path"),
    *("gguf_name", "diffusion_model", "base_model_name", "model"),
)
MODEL_LINKS = ("model", "unet", "base_model", "basic_pipe", "pipe", "context", "sdxl_tuple")


def drawing(graph: Graph, node: Node) -> Callable[[Graph, Node], Generation] | None:
    """How to read this node, if it draws pictures by a text."""
    if NO_PASSES.search(node.kind) or only_saves(graph, node):
        return None
    if SAMPLING & node.inputs.keys() and conditioning_of(graph, node, "positive"):
        return _sampled
    links = graph.links(node)
    if {"model", "steps"} <= node.inputs.keys() and links.keys() & {
        "vae",
        "latent",
        "latent_image",
    }:
        return _ordered if text_names(graph, node, "positive") else None
    prompted = any(isinstance(node.inputs.get(name), (str, list)) for name in PROMPTS)
    return _ordered if prompted and not any(map(FOREIGN.fullmatch, links)) else None


def conditioning_of(graph: Graph, node: Node, side: str) -> Link | None:
    """What this side of a sampler or guider is drawn by."""
    of_sides = sided(graph, node)
    named = next((link for name, link in of_sides.items() if side_of(name) == side), None)
    if named is None:
        links = graph.links(node)
        names = CONDITIONINGS if side == "positive" else CONDITIONINGS[-1:]
        named = next((links[name] for name in names if name in links), None)
    return named or bundle_of(graph, node)


def _sampled(graph: Graph, node: Node) -> Generation:
    guider = source_of(graph, graph.links(node).get("guider"))
    drawn = guider if guider and graph.links(guider) else node
    positive = conditioning_of(graph, drawn, "positive")
    if positive is None:
        raise NoPromptError(f"{drawn} is given no conditioning")
    prompt = _prompt(graph, positive, "positive")
    negative = _negative(graph, conditioning_of(graph, drawn, "negative"))
    negative = "" if negative == prompt else negative  # one text that stands for both sides
    return Generation(prompt, negative, **_settings(graph, node, drawn))


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
    names = [
        name for name in (*PROMPTS, *text_names(graph, node, "positive")) if name in node.inputs
    ]
    name = next((name for name in names if _holds_text(graph, node, name)), None)
    prompt = answer(graph, (text_value, node.id, name)).strip() if name else ""
    return Generation(prompt, _refused(graph, node), **_settings(graph, node, node))


def _refused(graph: Graph, node: Node) -> str:
    """What a node that draws by itself is not to draw; empty where it cannot be told."""
    names = [name for name in text_names(graph, node, "negative") if NEGATIVE.fullmatch(name)]
    try:
        return answer(graph, (text_value, node.id, names[0])).strip() if names else ""
    except NoPromptError:
        return ""


def _holds_text(graph: Graph, node: Node, name: str) -> bool:
    value = node.inputs.get(name)
    return isinstance(value, str) or graph.link(value) is not None


def _settings(graph: Graph, node: Node, guider: Node) -> dict[str, Any]:
    links = graph.links(node)
    noise, sampler = (source_of(graph, links.get(name)) for name in ("noise", "sampler"))
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


def source_of(graph: Graph, link: Link | None) -> Node | None:
    behind = graph.link(graph.follow(link))
    return graph.nodes[behind[0]] if behind else None


def _schedule(graph: Graph, link: Link | None) -> list[Node]:
    """The nodes that noise levels come from, nearest first."""
    start = source_of(graph, link)
    return list(islice(upstream(graph, start), 20)) if start else []


def upstream(graph: Graph, start: Node) -> Iterator[Node]:
    """Every node that `start` depends on, nearest first, but for networks."""
    waiting, seen = deque([start]), {start.id}
    while waiting:
        node = waiting.popleft()
        graph.look()
        yield node
        for name, link in graph.links(node).items():
            behind = graph.link(graph.follow(link))
            if name not in SIDEWAYS and behind and behind[0] not in seen:
                seen.add(behind[0])
                waiting.append(graph.nodes[behind[0]])


SIDEWAYS = {"vae", "clip", "model", "filename_prefix", "control_net", "clip_vision", "audio"}
"""Inputs that never lead to a sampler."""


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
        graph.look()
        name = _word(graph, [node], MODEL_NAMES)
        if name:
            return name
        for label, link in graph.links(node).items():
            behind = graph.link(graph.follow(link))
            if label.startswith(MODEL_LINKS) and behind and behind[0] not in seen:
                seen.add(behind[0])
                waiting.append(graph.nodes[behind[0]])
    return None
