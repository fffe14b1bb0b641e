"""The texts behind a conditioning: through what combines conditionings, to what encodes text."""

import re

from ..generation import NoPromptError
from .nodes import Answering, Graph, Link, Node, number
from .strings import NEGATIVE, NO_CONDITIONING, SETTINGS, encoded, plausible_names, text_value

MAX_PARTS = 100
"""Texts that one conditioning is combined of."""

COMBINED = re.compile(r"(conditioning|cond)(\d*|_.*)", re.IGNORECASE)
"""Inputs that bring conditionings of which all count."""

SIDED = re.compile(
    r"(?:opt(?:ional)?_|base_|refiner_)*(?P<side>pos(?:itive)?|neg(?:ative)?)"
    r"(?:_(?!prompt|text|style|ascore|token|weight|populated|wildcard)[A-Za-z0-9_]+)?"
)
"""Inputs that bring conditionings, or texts, for one of two outputs."""

POSITIVE_SECOND = {"LTXVReferenceAudio", "WanInfiniteTalkToVideo"}
"""Kinds whose first output is a model; the others give positive, negative."""

BUNDLES = re.compile(r"((?!sam|bbox|segm).*_)?(pipe|context|ctx|tuple|bus)(_\d+)?", re.IGNORECASE)
"""Inputs that carry positive and negative through one link."""

EDITS = {"easy pipeEditPrompt": "replace", "ttN pipeEncodeConcat": "concat"}
"""Kind -> what it does to the prompt of the bundle that it is given."""

MODES = {"replace": "replace", "concat": "concat", "combine": "concat"}
"""The same of kinds that ask for it in `conditioning_mode`."""

ENCODER = re.compile(r"(.*_)?(clip|t5|te|text_encoders?|encoder|bert|llm)(_(?!vision).*)?", re.I)
"""Inputs that bring what encodes text."""

FIRST = (
    *("text", "prompt", "positive_prompt", "text_positive", "positive", "user_prompt"),
    *("text_prompt", "negative_prompt", "text_negative", "negative", "base_negative"),
)
"""Inputs that hold the whole prompt of their side, in the order they are asked."""

PARTS = ("_g", "_l", "t5xxl", "clip_g", "clip_l", "llama", "mt5xl", "bert", "qwen25_7b")
"""Names, or their ends, of inputs for the several encoders of one model; all count, in this order."""

PROMPTS = re.compile(r"text|prompt|positive|negative|caption|tags|words|string", re.IGNORECASE)
NO_PROMPT = re.compile(
    r"normalization|interpretation|system|style|ascore|template|instruction|wildcard|log|insert"
    r"|select|prepend|width|height|save|prefix|mode|name|encoder|context|texture|\bratio",
    re.IGNORECASE,
)


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
    names = text_names(graph, node, side)
    inner = _conditionings(graph, node, slot, side)
    if inner:
        names = []
    elif bundle := bundle_of(graph, node):
        inner, names = _edited(graph, node, bundle, side, names)
    parts: list[str] = []
    for source, inner_side in inner:
        parts += yield (conditioning_texts, source, inner_side)
    for name in names:
        parts.append((yield (own_text, node.id, name)))
    if len(names) > 1 and min(map(_part, names)) < 0 and len(distinct(parts)) > 1:
        raise NoPromptError(
            f"{node} has several texts ({', '.join(names)[:80]}), and none is the prompt by its name"
        )
    if inner or names:
        return distinct(parts if inner else _without_contained(parts))
    return (yield (_through, node.id, side))


def own_text(graph: Graph, node_id: str, name: str) -> Answering:
    """The text that a node encodes, with what is linked to stand in front of it."""
    text = encoded(graph.nodes[node_id], name, (yield (text_value, node_id, name)))
    before = f"prepend_{name}"
    if before not in graph.nodes[node_id].inputs:
        return text
    return f"{(yield (text_value, node_id, before))} {text}"


def _edited(
    graph: Graph, node: Node, bundle: Link, side: str, names: list[str]
) -> tuple[list[tuple[Link, str]], list[str]]:
    """What is left of a bundle's prompt and what is added; NoPromptError if that is not known."""
    given = [name for name in names if graph.follow(node.inputs[name]) not in ("", " ")]
    if not given or node.inputs.get("toggle") is False:
        return [(bundle, side)], []
    mode = EDITS.get(node.kind) or MODES.get(str(node.inputs.get("conditioning_mode")))
    if mode is None:
        raise NoPromptError(f"{node} changes the prompt that it is given in a way of its own")
    return ([] if mode == "replace" else [(bundle, side)]), given


def _through(graph: Graph, node_id: str, side: str) -> Answering:
    """The texts behind a node of which only its links tell."""
    node = graph.nodes[node_id]
    links = graph.links(node)
    through = [link for name, link in links.items() if not NO_CONDITIONING.search(name)]
    through = [link for link in through if not graph.brings_text(link)]
    if len(through) != 1:
        raise NoPromptError(f"{node} makes its conditioning from no text that the graph holds")
    return (yield (conditioning_texts, through[0], side))


def bundle_of(graph: Graph, node: Node) -> Link | None:
    """What carries positive and negative through one link."""
    return next((at for name, at in graph.links(node).items() if BUNDLES.fullmatch(name)), None)


def sided(graph: Graph, node: Node) -> dict[str, Link]:
    """The inputs that bring a conditioning for one side, the refiner's only where there are no others."""
    links = {name: at for name, at in graph.links(node).items() if SIDED.fullmatch(name)}
    written = (value for name, value in node.inputs.items() if SIDED.fullmatch(name))
    if any(isinstance(graph.follow(value), str) for value in written):
        return {}
    links = {name: link for name, link in links.items() if not graph.brings_text(link)}
    return {name: at for name, at in links.items() if "refiner" not in name} or links


def side_of(name: str) -> str:
    found = SIDED.fullmatch(name)
    return "negative" if found and found["side"].startswith("neg") else "positive"


def _conditionings(graph: Graph, node: Node, slot: int, side: str) -> list[tuple[Link, str]]:
    """The conditionings that this one is made of."""
    links = graph.links(node)
    of_sides = sided(graph, node)
    sides = {side_of(name) for name in of_sides}
    second = node.kind in POSITIVE_SECOND
    if len(sides) == 2 and slot - second in (0, 1) and (second or not _takes_more(links)):
        side = "positive" if slot - second == 0 else "negative"
    if side in sides or (sides and not bundle_of(graph, node)):
        chosen = side if side in sides else next(iter(sides))
        return [(link, side) for name, link in of_sides.items() if side_of(name) == chosen]
    combined = {name: link for name, link in links.items() if COMBINED.fullmatch(name)}
    weight = number(graph, node, "conditioning_to_strength")
    if weight in (0, 1) and len(combined) == 2:
        combined.pop("conditioning_from" if weight == 1 else "conditioning_to", None)
    return [(link, side) for link in combined.values()]


def _takes_more(links: dict[str, Link]) -> bool:
    """Whether a node may give a model or a bundle before its two conditionings."""
    return any("model" in name or BUNDLES.fullmatch(name) for name in links)


def text_names(graph: Graph, node: Node, side: str) -> list[str]:
    """The inputs that hold the text of this side, by their names; several may, empty is none."""
    words = [name for name in node.inputs if _holds_prompt(node, name)]
    negative = [name for name in words if NEGATIVE.fullmatch(name)]
    names = [name for name in words if name not in negative]
    if side == "negative":
        names = negative or [name for name in names if "positive" not in name]
    names = [name for name in names if "populated" in name] or names
    first = next((name for name in FIRST if name in names), None)
    if first:
        return [first]
    if not names and any(map(ENCODER.fullmatch, graph.links(node))):
        names = [name for name in plausible_names(graph, node) if not NEGATIVE.fullmatch(name)]
    return sorted(names, key=_part)


def _part(name: str) -> int:
    """Which of PARTS an input is for; -1 is none."""
    found = [at for at, part in enumerate(PARTS) if name.endswith(part)]
    return found[-1] if found else -1


def _holds_prompt(node: Node, name: str) -> bool:
    if not isinstance(node.inputs[name], (str, list)) or name in SETTINGS:
        return False
    named = PROMPTS.search(name) and not NO_PROMPT.search(name)
    return bool(named or "populated" in name or name in PARTS)


def _without_contained(texts: list[str]) -> list[str]:
    """Texts for several encoders of one model: what another says too is left out."""
    longest = sorted(texts, key=len, reverse=True)[:MAX_PARTS]
    return [text for text in texts if not any(text != other and text in other for other in longest)]
