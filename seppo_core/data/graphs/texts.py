"""The text behind a conditioning: through what combines conditionings, encodes text and joins strings."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from ..generation import NoPromptError
from .nodes import Answering, Graph, Link, Node

MAX_PROMPT = 100_000
"""Characters; no text encoder reads as many."""

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

NEGATIVE_TEXTS = ("negative_prompt", "text_negative", "negative", "base_negative")

NO_CONDITIONING = re.compile(
    r"clip|vae|model|net$|image|pixels|mask|latent|samples|vision|audio|video|frames|pose"
)
"""Inputs of nodes that pass a conditioning on, and that never bring one."""


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
        names = [name for name in _plausible(graph, node) if name not in NEGATIVE_TEXTS]
        return names if len(names) == 1 else []
    return names


def _may_be_text(node: Node, name: str) -> bool:
    return isinstance(node.inputs.get(name), (str, list))


def _without_contained(texts: list[str]) -> list[str]:
    """Texts for several encoders of one model: what another says too is left out."""
    longest = sorted(texts, key=len, reverse=True)[:MAX_PARTS]
    return [text for text in texts if not any(text != other and text in other for other in longest)]


def text_value(graph: Graph, node_id: str, name: str) -> Answering:
    """The text of one input, wherever it comes from."""
    value = graph.follow(graph.nodes[node_id].inputs.get(name))
    link = graph.link(value)
    if link:
        return bounded((yield (node_text, link[0])))
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise NoPromptError(f"input {name[:40]!r} of {graph.nodes[node_id]} holds no text")
    return bounded(str(value))


def bounded(text: str) -> str:
    if len(text) > MAX_PROMPT:
        raise NoPromptError(f"its prompt is over {MAX_PROMPT} characters")
    return text


def node_text(graph: Graph, node_id: str) -> Answering:
    """The text that a node of strings gives."""
    node = graph.nodes[node_id]
    names, combine = RULES.get(node.kind, _general)(graph, node)
    values = []
    for name in names:
        values.append((yield (text_value, node_id, name)) if name in node.inputs else "")
    return bounded(combine(*values))


Rule = tuple[Sequence[str], Callable[..., str]]
"""The inputs that a text is made of, and how."""


def _concatenated(a: str, b: str, delimiter: str) -> str:
    return f"{a}{delimiter}{b}"


def _replaced(text: str, find: str, new: str) -> str:
    if not find:
        return text
    if text.count(find) * len(new) > MAX_PROMPT:
        raise NoPromptError(f"its prompt is over {MAX_PROMPT} characters")
    return text.replace(find, new)


def _formatted(graph: Graph, node: Node) -> Rule:
    """The host's StringFormat, where its fields are plain: {a}, {b}."""
    pattern = node.inputs.get("f_string")
    if not isinstance(pattern, str) or re.search(r"[{}]", re.sub(r"\{[a-z]\}", "", pattern)):
        raise NoPromptError(f"{node} makes its text only when the graph runs")
    names = [name for name in node.inputs if re.fullmatch("[a-z]", name)]
    pieces = re.split(r"\{([a-z])\}", bounded(pattern))

    def fill(*values: str) -> str:
        fields = dict(zip(names, values, strict=True))
        return "".join(
            fields.get(piece, "") if odd % 2 else piece for odd, piece in enumerate(pieces)
        )

    return names, fill


def _cut(text: str, start: str, end: str) -> str:
    return text[_whole(start) : _whole(end)]


def _whole(text: str) -> int:
    if not re.fullmatch(r"-?\d{1,9}", text):
        raise NoPromptError("a node of strings has a text where a number belongs")
    return int(text)


def _from_json(text: str, key: str) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    found = value.get(key) if isinstance(value, dict) else None
    return "" if found is None else str(found)[: MAX_PROMPT + 1]


TRIMS: dict[str, Callable[[str], str]] = {
    "Left": str.lstrip,
    "Right": str.rstrip,
    "Both": str.strip,
}
CASES: dict[str, Callable[[str], str]] = {
    **{"UPPERCASE": str.upper, "lowercase": str.lower},
    **{"Capitalize": str.capitalize, "Title Case": str.title},
}

STRINGS: dict[str, Rule] = {
    "StringConcatenate": (("string_a", "string_b", "delimiter"), _concatenated),
    "StringReplace": (("string", "find", "replace"), _replaced),
    "ReplaceText": (("texts", "find", "replace"), _replaced),
    "StringTrim": (("string", "mode"), lambda text, mode: TRIMS.get(mode, str)(text)),
    "CaseConverter": (("string", "mode"), lambda text, mode: CASES.get(mode, str)(text)),
    "StringSubstring": (("string", "start", "end"), _cut),
    "JsonExtractString": (("json_string", "key"), _from_json),
    "AddTextPrefix": (("prefix", "texts"), str.__add__),
    "AddTextSuffix": (("texts", "suffix"), str.__add__),
    "TextToLowercase": (("texts",), str.lower),
    "TextToUppercase": (("texts",), str.upper),
    "StripWhitespace": (("texts",), str.strip),
    "TruncateText": (("texts", "max_length"), lambda text, end: text[: _whole(end)]),
    "CustomCombo": (("choice",), str),
    "ImpactWildcardProcessor": (("populated_text",), str),
    "ImpactWildcardEncode": (("populated_text",), str),
}
"""Kind of node -> the inputs it computes its text from, and how. Regular expressions are not run: one that
a file brings may take for ever."""

COMPUTED = re.compile(
    r"regex|random|wildcard|generate|llm|gpt|llama|claude|gemini|openai|chat|florence|joycaption|caption"
    r"|interrogat|tagger|enhance|upsampl|translat|vlm|vision|qwen|length|contains|compare|load",
    re.IGNORECASE,
)
"""Kinds whose text is known only once they run, though they hold one."""

JOINS = re.compile(r"concat|join|append|combine|merge|stringfunction", re.IGNORECASE)
DELIMITERS = ("delimiter", "separator", "sep")

SETTINGS = {
    *(
        "mode",
        "action",
        "delimiter",
        "separator",
        "sep",
        "clean_whitespace",
        "tidy_tags",
        "filename",
    ),
    *(
        "filename_prefix",
        "encoding",
        "find",
        "replace",
        "style",
        "model",
        "method",
        "device",
        "type",
    ),
    *("title", "label", "speak_and_recognation", "token_normalization", "weight_interpretation"),
    *("system_prompt", "template", "sampling_mode", "boolean", "control_after_generate"),
}
"""Inputs whose strings are settings, not text."""


def gives_text(graph: Graph, node: Node) -> bool:
    return node.kind in STRINGS or len(_plausible(graph, node)) == 1 and not graph.links(node)


def _general(graph: Graph, node: Node) -> Rule:
    """How a node makes its text. One of no known kind joins what it is given, or hands it on."""
    if node.kind in STRINGS:
        return STRINGS[node.kind]
    plausible = _plausible(graph, node)
    foreign = [name for name in graph.links(node) if name not in plausible and name not in SETTINGS]
    if plausible and not foreign and not COMPUTED.search(node.kind):
        if len(plausible) == 1:
            return plausible, str
        if JOINS.search(node.kind):
            return [*plausible, _delimiter(node)], _joined
        known = [name for name in POSITIVE_TEXTS if name in plausible]
        if len(known) == 1:
            return known, str
    raise NoPromptError(f"{node} makes its text only when the graph runs")


RULES: dict[str, Callable[[Graph, Node], Rule]] = {"StringFormat": _formatted}
"""Kinds whose inputs differ from node to node."""


def _delimiter(node: Node) -> str:
    return next((name for name in DELIMITERS if name in node.inputs), "")


def _joined(*values: str) -> str:
    *texts, delimiter = values
    delimiter = delimiter.replace("\\n", "\n")
    return delimiter.join(text for text in texts if text)


def _plausible(graph: Graph, node: Node) -> list[str]:
    """The inputs that may hold text: strings and links, by their names no settings and no models."""
    return [
        name
        for name, value in node.inputs.items()
        if name not in SETTINGS
        and (isinstance(value, str) or (graph.link(value) and not NO_CONDITIONING.search(name)))
    ]


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
