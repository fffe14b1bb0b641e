"""The text that an input holds: written there, or made by nodes of strings."""

import json
import re
from collections.abc import Callable, Sequence

from ..generation import NoPromptError
from .nodes import Answering, Graph, Node

MAX_PROMPT = 100_000
"""Characters; no text encoder reads as many."""

NEGATIVE_TEXTS = ("negative_prompt", "text_negative", "negative", "base_negative")

NO_CONDITIONING = re.compile(
    r"clip|vae|model|net$|image|pixels|mask|latent|samples|vision|audio|video|frames|pose"
)
"""Inputs of nodes that pass a conditioning on, and that never bring one."""


def text_value(graph: Graph, node_id: str, name: str) -> Answering:
    """The text of one input, wherever it comes from."""
    value = graph.follow(graph.nodes[node_id].inputs.get(name))
    link = graph.link(value)
    if link:
        return bounded((yield (node_text, *link)))
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise NoPromptError(f"input {name[:40]!r} of {graph.nodes[node_id]} holds no text")
    return bounded(str(value))


def bounded(text: str) -> str:
    if len(text) > MAX_PROMPT:
        raise NoPromptError(f"its prompt is over {MAX_PROMPT} characters")
    return text


def node_text(graph: Graph, node_id: str, slot: int) -> Answering:
    """The text that a node of strings gives at an output."""
    node = graph.nodes[node_id]
    names, combine = RULES.get(node.kind, _general)(graph, node, slot)
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


def _formatted(graph: Graph, node: Node, slot: int) -> Rule:
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


def _pysssss(action: str, tidy: str, a: str, b: str, c: str) -> str:
    """ComfyUI-Custom-Scripts' StringFunction."""
    if action == "replace" and not b.startswith("/"):
        return _replaced(a, b, c)
    if action != "append":
        raise NoPromptError("StringFunction makes its text only when the graph runs")
    return (", " if tidy == "yes" else "").join(text for text in (a, b, c) if text)


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
    "StringFunction|pysssss": (("action", "tidy_tags", "text_a", "text_b", "text_c"), _pysssss),
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
    r"|interrogat|tagger|enhance|upsampl|translat|vlm|vision|qwen|length|contains|compare|load|json|build",
    re.IGNORECASE,
)
"""Kinds whose text is known only once they run, though they hold one."""

JOINS = re.compile(r"concat|join|append|combine|merge|stringfunction", re.IGNORECASE)
DELIMITED = {"none": "", "space": " ", "comma": ", ", "newline": "\n"}
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
    return node.kind in STRINGS or len(plausible_names(graph, node)) == 1 and not graph.links(node)


def _general(graph: Graph, node: Node, slot: int) -> Rule:
    """How a node makes its text. One of no known kind joins what it is given, or hands it on."""
    if node.kind in STRINGS:
        return STRINGS[node.kind]
    plausible = plausible_names(graph, node)
    foreign = [name for name in graph.links(node) if name not in plausible and name not in SETTINGS]
    names = [name for name in plausible if node.inputs[name] != ""]
    if names and not foreign and not COMPUTED.search(node.kind):
        if len(names) > 1 and JOINS.search(node.kind):
            return [*_in_order(names), _delimiter(node)], _joined
        if len(names) == 1 and {"find", "replace"} <= node.inputs.keys():
            return [names[0], "find", "replace"], _replaced
        names = _of_this_side(names, slot)
        if len(names) == 1:
            return names, str
    raise NoPromptError(f"{node} makes its text only when the graph runs")


def _of_this_side(names: list[str], slot: int) -> list[str]:
    """Without the texts for the other side, where a node has both; the second output is the negative."""
    negative = [name for name in names if name in NEGATIVE_TEXTS]
    positive = [name for name in names if name not in negative]
    if not negative or not positive:
        return names
    return negative if slot == 1 else positive


def _in_order(names: list[str]) -> list[str]:
    """text_b, text_a as text_a, text_b: in files what is linked stands behind what is written."""
    parts = [re.fullmatch(r"(.*?)([a-z]|\d{1,4})", name) for name in names]
    if not all(parts) or len({part[1] for part in parts}) > 1:
        return names
    return sorted(names, key=lambda name: (len(name), name))


RULES: dict[str, Callable[[Graph, Node, int], Rule]] = {"StringFormat": _formatted}
"""Kinds whose inputs differ from node to node."""


def _delimiter(node: Node) -> str:
    return next((name for name in DELIMITERS if name in node.inputs), "")


def _joined(*values: str) -> str:
    *texts, delimiter = values
    delimiter = DELIMITED.get(delimiter, delimiter.replace("\\n", "\n"))
    return delimiter.join(text for text in texts if text)


def plausible_names(graph: Graph, node: Node) -> list[str]:
    """The inputs that may hold text: strings and links, by their names no settings and no models."""
    return [
        name
        for name, value in node.inputs.items()
        if name not in SETTINGS
        and (isinstance(value, str) or (graph.link(value) and not NO_CONDITIONING.search(name)))
    ]
