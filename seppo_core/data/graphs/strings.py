"""The text that an input holds: written there, or made by nodes of strings."""

import json
import re
from collections.abc import Callable, Sequence

from ..generation import NoPromptError
from .nodes import WORDS, Answering, Graph, Node, number

MAX_PROMPT = 100_000
"""Characters; no text encoder reads as many."""

NEGATIVE = re.compile(r"(?:.*[_ ])?(?:neg|negative|uncond)(?:[_ ].*)?", re.IGNORECASE)
"""Names of inputs for what is not to be drawn."""

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


def _put_together(texts: Sequence[str], delimiter: str = "") -> str:
    """NoPromptError before a text is made that is too long."""
    if sum(map(len, texts)) + len(delimiter) * len(texts) > MAX_PROMPT:
        raise NoPromptError(f"its prompt is over {MAX_PROMPT} characters")
    return delimiter.join(texts)


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
        return _put_together(
            [fields.get(piece, "") if odd % 2 else piece for odd, piece in enumerate(pieces)]
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
    "WildcardEncode //Inspire": (("populated_text",), str),
    "Power Prompt (rgthree)": (("prompt",), str),
    "Power Prompt - Simple (rgthree)": (("prompt",), str),
    "LoraTagLoader": (("text",), str),
    "LoraSyntaxProcessor": (("text",), str),
    "easy prompt": (("text",), str),
    "easy promptConcat": (("prompt1", "prompt2", "separator"), _concatenated),
}
"""Kind of node -> the inputs it computes its text from, and how. Regular expressions are not run: one that
a file brings may take for ever."""

COMPUTED = re.compile(
    r"regex|generate|llm|llama|chat|florence|joycaption|caption"
    r"|interrogat|tagger|enhance|upsampl|vlm|vision|qwen|mistral|length|contains|compare|load|json|build"
    r"|slice|substr|truncat|extract|count|sort|filter|template|pick|choose",
    re.IGNORECASE,
)
"""Kinds of strings whose text is known only once they run, though they hold one. Encoders are not asked
for these: networks that encode are called after models that write."""

REWRITES = re.compile(
    r"translat|expan(d|sion)|enrich|rewrit|rephras|magic_? ?prompt|super_? ?prompt|prompt_? ?gen|random"
    r"|griptape|ollama|gpt|gemini|openai|claude|deepseek|assistant|agent"
    r"|schedul|travel|keyframe|batch|split|sequence|cycl|iterat|for_? ?each|shuffl|(?-i:"
    r"(?:(?<![A-Za-z])l|L)ists?(?![a-z])"
    r"|(?<!ulti)(?<!ulti[-_ ])(?:(?<![A-Za-z])l|L)ines?(?![a-z]))",
    re.IGNORECASE,
)
"""Kinds that make other text of theirs, or several, whether they give it or encode it."""

RUNS = re.compile(
    r"temperature|top_[kp]|max_(new_)?tokens|agent|api_key|(.*_)?translate(_.*)?"
    r"|max_rows|start_index|(max|current)_frames?"
)
"""Inputs of such kinds, whatever they are called: of what writes, translates, or gives one after another."""

SOUND = re.compile(r"audio|music|speech", re.IGNORECASE)
"""Kinds that sample sounds by such inputs, while they encode a text as it stands."""

WILDCARDS = re.compile(r"wildcard|noodle|\(NSP\)|^DP(Random|Combinatorial)", re.IGNORECASE)
DRAWN = re.compile(r"[{}|]|__|<(?!lora:|lyco:|hypernet:)|\$")
"""Signs in a text that nodes of WILDCARDS replace by what they draw; without them it stays as it is."""

SHOWS = re.compile(r"show|display|preview|debug|console", re.IGNORECASE)

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
    *("Select to add LoRA", "Select to add Wildcard", "insert_lora", "insert_embedding"),
    *("insert_saved", "token", "language"),
}
"""Inputs whose strings are settings, not text."""

PLAIN_TEXTS = {"value", "source", "any", "input", "content", "positive", "negative", "Text", "str"}
"""Inputs that hold a whole text, beside those of WORDS."""


def _general(graph: Graph, node: Node, slot: int) -> Rule:
    """How a node makes its text. One of no known kind joins what it is given, or hands it on."""
    if node.kind in STRINGS:
        return STRINGS[node.kind]
    plausible = plausible_names(graph, node)
    foreign = [name for name in graph.links(node) if name not in plausible and name not in SETTINGS]
    foreign = [name for name in foreign if not _brings_number(graph, node, name)]
    names = [name for name in plausible if node.inputs[name] != ""]
    if names and not foreign and (computed := _computed(node)) is not None:
        if len(names) > 1 and JOINS.search(node.kind):
            joined = _stripped if node.inputs.get("clean_whitespace") == "true" else _joined
            return [*_in_order(names), _delimiter(node)], joined
        if len(names) == 1 and {"find", "replace"} <= node.inputs.keys():
            return [names[0], "find", "replace"], _replaced
        names = _of_this_side(_shown(node, names), slot)
        if len(names) == 1 and _is_whole(node, names[0]):
            return names, computed
    raise _only_when_it_runs(node)


def _only_when_it_runs(node: Node) -> NoPromptError:
    return NoPromptError(f"{node} makes its text only when the graph runs")


def _computed(node: Node) -> Callable[[str], str] | None:
    """What a node does to its one text; None if it makes another of it."""
    if WILDCARDS.search(node.kind):

        def unchanged(text: str) -> str:
            if DRAWN.search(text):
                raise _only_when_it_runs(node)
            return text

        return unchanged
    return None if COMPUTED.search(node.kind) or makes_others(node) else str


def makes_others(node: Node) -> bool:
    """Whether a node makes other text of the one that it holds."""
    return bool(REWRITES.search(node.kind) or any(map(RUNS.fullmatch, node.inputs)))


def encoded(node: Node, name: str, text: str) -> str:
    """The text that a node encodes of the one that an input holds; NoPromptError if it makes another."""
    if "populated" in name:
        return text
    drawn = WILDCARDS.search(node.kind) and DRAWN.search(text)
    if drawn or (makes_others(node) and not SOUND.search(node.kind)):
        raise _only_when_it_runs(node)
    return text


def _shown(node: Node, names: list[str]) -> list[str]:
    """Without what a node that shows a text showed the time before."""
    linked = [name for name in names if not isinstance(node.inputs[name], str)]
    return linked if SHOWS.search(node.kind) and len(linked) == 1 else names


def _is_whole(node: Node, name: str) -> bool:
    """Whether an input holds a text, and not the name of something."""
    value = node.inputs[name]
    known = WORDS.search(name) or name in PLAIN_TEXTS
    return bool(known or not isinstance(value, str) or " " in value.strip())


def _of_this_side(names: list[str], slot: int) -> list[str]:
    """Without the texts for the other side, where a node has both; the second output is the negative."""
    negative = [name for name in names if NEGATIVE.fullmatch(name)]
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


def _boxes(graph: Graph, node: Node, slot: int) -> Rule:
    """tinyterraNodes' boxes: each alone, some pairs, and all of them at the last output."""
    count = 3 if "3BOX" in node.kind else 7
    if slot < count:
        return [f"text{slot + 1}"], str
    pairs = {3: "12", 4: "13", 5: "23"} if count == 3 else {}
    chosen = pairs.get(slot, "1234567"[:count])
    return [*(f"text{number}" for number in chosen), "delimiter"], _joined


def _of_four(graph: Graph, node: Node, slot: int) -> Rule:
    """WAS' Text String gives each of its four texts."""
    return [("text", "text_b", "text_c", "text_d")[min(slot, 3)]], str


def _of_two(graph: Graph, node: Node, slot: int) -> Rule:
    """rgthree's SDXL Power Prompt, whose texts are its last two outputs."""
    return ["prompt_l" if slot in (2, 4) else "prompt_g"], str


RULES: dict[str, Callable[[Graph, Node, int], Rule]] = {
    "StringFormat": _formatted,
    "ttN text3BOX_3WAYconcat": _boxes,
    "ttN text7BOX_concat": _boxes,
    "Text String": _of_four,
    "SDXL Power Prompt - Positive (rgthree)": _of_two,
    "SDXL Power Prompt - Simple / Negative (rgthree)": _of_two,
}
"""Kinds whose inputs differ from node to node, or from output to output."""


def _delimiter(node: Node) -> str:
    return next((name for name in DELIMITERS if name in node.inputs), "")


def _joined(*values: str) -> str:
    *texts, delimiter = values
    delimiter = DELIMITED.get(delimiter, delimiter.replace("\\n", "\n"))
    return _put_together([text for text in texts if text], delimiter)


def _stripped(*values: str) -> str:
    *texts, delimiter = values
    return _joined(*(text.strip() for text in texts), delimiter)


def plausible_names(graph: Graph, node: Node) -> list[str]:
    """The inputs that may hold text: strings and links, by their names no settings and no models."""
    return [
        name
        for name, value in node.inputs.items()
        if name not in SETTINGS and (isinstance(value, str) or _plausible_link(graph, node, name))
    ]


def _plausible_link(graph: Graph, node: Node, name: str) -> bool:
    if graph.link(node.inputs[name]) is None or NO_CONDITIONING.search(name):
        return False
    return bool(WORDS.search(name)) or not _brings_number(graph, node, name)


def _brings_number(graph: Graph, node: Node, name: str) -> bool:
    behind = graph.link(graph.follow(node.inputs[name]))
    source = graph.nodes[behind[0]].inputs if behind else {}
    written = (key for key, value in source.items() if isinstance(value, str))
    return number(graph, node, name) is not None and not set(written) - SETTINGS
