"""The prompt that a picture or clip carries within its own file."""

import re
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

from PIL import Image

from .embedded import embedded_texts
from .generation import Generation, NoPromptError
from .graphs import api_graph, generation_of, typed
from .json_texts import graph_in, is_fooocus, json_object, told_in_json, unknown_json
from .pictures import DAMAGE

MAX_PROMPT = 20_000
MAX_NAME = 200
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


def read_generation(file: BinaryIO, name: str) -> Generation:
    """How the picture or clip in `file`, called `name`, was generated.

    ComfyUI's graphs are asked first, then what other programs write. The prompt is never empty.
    NoPromptError gives the reason alone why it tells none.
    """
    texts = embedded_texts(file)
    try:
        if found := _graph_told(texts, name, lambda: _size(file)):
            return _cleaned(found)
    except NoPromptError as error:
        return _written_beside(texts, error)
    return _cleaned(_other_programs(texts))


def _written_beside(texts: dict[str, str], silence: NoPromptError) -> Generation:
    """What a node wrote in another program's way beside a graph that tells no finished text."""
    try:
        others = {key: text for key, text in texts.items() if key != "prompt"}
        return _cleaned(_other_programs(others))
    except NoPromptError as error:
        if str(error) == NO_TEXT:
            raise silence from None
        raise NoPromptError(f"{silence}; beside the graph, {error}") from None


def _size(file: BinaryIO) -> tuple[int, int] | None:
    """Width and height by the picture's header; None where Pillow cannot tell."""
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return image.size
    except (OSError, *DAMAGE, Image.DecompressionBombError):
        return None


def _graph_told(
    texts: dict[str, str], name: str, size_of_file: Callable[[], tuple[int, int] | None]
) -> Generation | None:
    """What ComfyUI's texts tell; None if there are none."""
    lower = {key.lower(): text for key, text in texts.items()}
    objects = {key: found for key, text in lower.items() if (found := json_object(text))}
    if "prompt" in objects:
        kind, graph = graph_in(objects["prompt"]) or ("prompt", objects["prompt"])
        try:
            return _of_graph(kind, graph, name, size_of_file)
        except NoPromptError:
            if kind != "prompt" or "workflow" not in objects:
                raise
        return generation_of(typed(graph, objects["workflow"]), name, size_of_file)
    for values in objects.values():
        if found := graph_in(values):
            return _of_graph(*found, name, size_of_file)
    if "workflow" in objects:
        return generation_of(api_graph(objects["workflow"]), name, size_of_file)
    if lower.get("prompt", "").lstrip().startswith("{"):
        raise NoPromptError("its graph is no valid JSON, or nested too deeply")
    return None


def _of_graph(
    kind: str, graph: Any, name: str, size_of_file: Callable[[], tuple[int, int] | None]
) -> Generation:
    return generation_of(api_graph(graph) if kind == "workflow" else graph, name, size_of_file)


def is_graph(values: Any) -> bool:
    return isinstance(values, dict) and graph_in(values) is not None


def graph_beside(values: dict[str, Any]) -> str | None:
    """The prompt of a graph of ComfyUI that stands in a file of its own; None if it tells none."""
    kind, graph = graph_in(values) or ("prompt", values)
    try:
        return _cleaned(_of_graph(kind, graph, "", lambda: None)).prompt
    except NoPromptError:
        return None


def without_graphs(values: Any) -> Any:
    """A JSON value without the graphs that an object holds, which may be texts themselves."""
    if not isinstance(values, dict):
        return values
    objects = {
        key: json_object(value) if isinstance(value, str) else value
        for key, value in values.items()
    }
    return {key: value for key, value in values.items() if not is_graph(objects[key])}


def _other_programs(texts: dict[str, str]) -> Generation:
    """What the other programs' texts say, read by sd-parsers; only where there are such texts."""
    parameters = {SAME.get(key, key): text for key, text in texts.items()}
    known = [name for name, wrote in PROGRAMS.items() if wrote(parameters)]
    if not known and texts.get("prompt", "").strip():
        return Generation(texts["prompt"])
    if not known and (found := told_in_json(parameters.get("parameters", ""))):
        return found
    if not known:
        raise NoPromptError(unknown_json(parameters.get("parameters", "")) or NO_TEXT)
    try:
        from sd_parsers import parsers
    except ImportError:
        raise NoPromptError(
            f"{' or '.join(known)} wrote its prompt, which is read with: pip install sd-parsers"
        ) from None
    reasons = []
    for name in known:
        try:
            return _parsed(getattr(parsers, f"{name}Parser")().parse(dict(parameters)))
        except Exception as error:  # whatever a foreign text makes a foreign parser raise
            reasons.append(f"{name}: {error or type(error).__name__}")
    raise NoPromptError(f"its text cannot be read as that of {'; '.join(reasons)[:300]}")


NO_TEXT = "it carries no text of a program that makes pictures"

SAME = {"UserComment": "parameters"}
"""Keys in EXIF -> the keys of PNG chunks that hold the same."""

PROGRAMS: dict[str, Callable[[dict[str, str]], bool]] = {
    "AUTOMATIC1111": lambda texts: "Steps: " in texts.get("parameters", ""),
    "Fooocus": lambda texts: is_fooocus(texts.get("parameters", "")),
    "InvokeAI": lambda texts: bool({"invokeai_metadata", "sd-metadata", "Dream"} & texts.keys()),
    "NovelAI": lambda texts: {"Comment", "Description", "Source"} <= texts.keys(),
}
"""Program -> whether it wrote texts like these, in the order they are asked."""


NETWORKS = re.compile(r"<(?:lora|lyco|hypernet):[^<>]{1,200}>", re.IGNORECASE)
"""Marks that AUTOMATIC1111 takes out of a prompt before it is encoded."""

MARKS = re.compile(
    rf"(?:^|,)\s*(?:{NETWORKS.pattern}\s*)+(?=,|$)| ?{NETWORKS.pattern}(?=\s|,|$)|{NETWORKS.pattern}",
    re.IGNORECASE,
)
"""The same with the comma or space that would be left over."""


UNRESOLVED = re.compile(
    r"<(?:style|wildcard|wc|random|alternate|var|setvar|macro|setmacro)[:\[][^<>]*>", re.IGNORECASE
)
"""Marks that nodes and programs replace by words before a text is encoded."""


def without_networks(text: str) -> str:
    """Without the marks that load a network, which nodes take out of a text before it is encoded."""
    bare = MARKS.sub("", text)
    return bare.lstrip(" ,\n") if bare != text and not text.startswith(bare[:1]) else bare


def _parsed(info: Any) -> Generation:
    """From sd-parsers' PromptInfo; its values are whatever the file holds."""
    if not info.samplers:
        raise ValueError("no sampler found")
    sampler = info.samplers[0]
    settings = {**info.metadata, **sampler.parameters}
    return Generation(
        prompt=", ".join(str(prompt.value) for prompt in sampler.prompts),
        negative=", ".join(str(prompt.value) for prompt in sampler.negative_prompts),
        seed=_number(settings.get("seed"), int),
        steps=_number(settings.get("steps"), int),
        cfg=_number(settings.get("cfg_scale"), float),
        sampler=str(sampler.name),
        scheduler=str(settings["scheduler"]) if settings.get("scheduler") else None,
        model=sampler.model.name if sampler.model else None,
    )


def _number(value: Any, kind: type) -> Any:
    try:
        return kind(str(value)[:40])
    except ValueError:
        return None


def _cleaned(found: Generation) -> Generation:
    """Bounded, stripped, without control characters; NoPromptError if no prompt is left."""
    prompt = _clean(without_networks(found.prompt), MAX_PROMPT + 1)
    if not prompt:
        raise NoPromptError("its prompt is empty")
    if left := UNRESOLVED.search(prompt):
        raise NoPromptError(
            f"its prompt holds {left[0][:40]!r}, for which words were put that the file does not hold"
        )
    if len(prompt) > MAX_PROMPT:
        raise NoPromptError(f"its prompt is over {MAX_PROMPT} characters")
    names = (found.sampler, found.scheduler, found.model)
    sampler, scheduler, model = (_clean(name, MAX_NAME) or None for name in names)
    negative = _clean(without_networks(found.negative), MAX_PROMPT)
    return Generation(
        prompt, negative, found.seed, found.steps, found.cfg, sampler, scheduler, model
    )


def _clean(text: Any, limit: int) -> str:
    if not isinstance(text, str):
        return ""
    return CONTROL.sub("", text[: 4 * limit].replace("\r\n", "\n").replace("\t", " ")).strip()[
        :limit
    ]
