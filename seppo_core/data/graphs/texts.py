"""The texts behind a conditioning: through what combines conditionings, to what encodes text."""

import re

from ..generation import NoPromptError
from .nodes import Answering, Graph, Link, Node, number
from .strings import NEGATIVE_TEXTS, NO_CONDITIONING, gives_text, plausible_names, text_value

MAX_PARTS = 100
"""Texts that one conditioning is combined of."""

COMBINED = re.compile(r"(conditioning|cond)(\d*|_.*)", re.IGNORECASE)
"""Inputs that bring conditionings of which all count."""

SIDED = re.compile(r"(positive|negative)(_(?!prompt|text)[A-Za-z0-9]+)?")
"""Inputs that bring conditionings for one of two outputs."""

POSITIVE_SECOND = {"LTXVReferenceAudio", "WanInfiniteTalkToVideo"}
"""Kinds whose first output is a model; the others give positive, negative."""

BUNDLES = re.compile(r"pipe|context|bus", re.IGNORECASE)
"""Kinds that carry positive and negative through one output."""

POSITIVE_TEXTS = (
    *(
        "text",
        "prompt",
        "positive_prompt",
        "text_positive",
        "positive",
        "user_prompt",
        "text_prompt",
    ),
    *("text_g", "text_l", "t5xxl", "clip_g", "clip_l", "llama", "mt5xl", "bert", "qwen25_7b"),
    *("caption", "tags", "prompt_text", "base_positive"),
)
"""Names under which nodes take the text to be drawn, of the host and the common packs."""


def distinct(texts: list[str]) -> tuple[str, ...]:
    """In their order, each once; NoPromptError if there are more than MAX_PARTS."""
    found = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if len(found) > MAX_PARTS:
        raise NoPromptError(f"its conditioning joins over {MAX_PARTS} texts")
    return found


def conditioning_texts(graph: Graph, link: Link, side: str) -> Answering:
    """The texts behind a conditioning; `side` ("positive", "negative") is what the sampler uses it as."""
    behind = graph.follow(link)
    if not graph.link(behind):
        raise NoPromptError("a conditioning is linked to a plain value")
    node, slot = graph.nodes[behind[0]], behind[1]
    if "ZeroOut" in node.kind:
        return ()
    inner = _conditionings(graph, node, slot, side)
    if inner:
        parts: list[str] = []
        for source, inner_side in inner:
            parts += yield (conditioning_texts, source, inner_side)
        return distinct(parts)
    names = _text_names(graph, node, side)
    if names:
        texts = []
        for name in names:
            texts.append((yield (text_value, node.id, name)))
        return distinct(_without_contained(texts))
    through = [link for name, link in graph.links(node).items() if not NO_CONDITIONING.search(name)]
    if len(through) == 1:
        return (yield (conditioning_texts, through[0], side))
    raise NoPromptError(f"{node} makes its conditioning from no text that the graph holds")


def _conditionings(graph: Graph, node: Node, slot: int, side: str) -> list[tuple[Link, str]]:
    """The conditionings that this one is made of."""
    links = graph.links(node)
    sided = {name: link for name, link in links.items() if SIDED.fullmatch(name)}
    sides = {name.partition("_")[0] for name in sided}
    if len(sides) == 2 and not BUNDLES.search(node.kind):
        side = "positive" if slot - (node.kind in POSITIVE_SECOND) == 0 else "negative"
    if sides and not _is_text(graph, sided):
        chosen = side if side in sides else next(iter(sides))
        return [(link, side) for name, link in sided.items() if name.startswith(chosen)]
    combined = {name: link for name, link in links.items() if COMBINED.fullmatch(name)}
    weight = number(graph, node, "conditioning_to_strength")
    if weight in (0, 1) and len(combined) == 2:
        combined.pop("conditioning_from" if weight == 1 else "conditioning_to", None)
    return [(link, side) for link in combined.values()]


def _is_text(graph: Graph, links: dict[str, Link]) -> bool:
    """Whether `positive` and `negative` of this node are strings, as some packs' loaders have them."""
    behind = (graph.follow(link) for link in links.values())
    return any(
        isinstance(value, str)
        or (isinstance(value, tuple) and gives_text(graph, graph.nodes[value[0]]))
        for value in behind
    )


def _text_names(graph: Graph, node: Node, side: str) -> list[str]:
    """The inputs that hold the text of this side."""
    if side == "negative":
        names = [name for name in NEGATIVE_TEXTS if _may_be_text(node, name)]
        if names:
            return names[:1]
    names = [name for name in POSITIVE_TEXTS if _may_be_text(node, name)]
    if names and names[0] in POSITIVE_TEXTS[:7]:
        return names[:1]
    if not names and "clip" in graph.links(node):
        names = [name for name in plausible_names(graph, node) if name not in NEGATIVE_TEXTS]
        return names if len(names) == 1 else []
    return names


def _may_be_text(node: Node, name: str) -> bool:
    return isinstance(node.inputs.get(name), (str, list))


def _without_contained(texts: list[str]) -> list[str]:
    """Texts for several encoders of one model: what another says too is left out."""
    longest = sorted(texts, key=len, reverse=True)[:MAX_PARTS]
    return [text for text in texts if not any(text != other and text in other for other in longest)]
