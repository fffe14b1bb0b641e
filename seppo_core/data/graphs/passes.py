"""Which of a picture's passes drew it: the one that began with most of the noise, not the last."""

import re
from collections import deque
from collections.abc import Iterator

from ..generation import Generation, NoPromptError
from .nodes import CIRCLE, Answering, Graph, Link, Node, number
from .samplers import SIDEWAYS, drawing, source_of, upstream
from .texts import bundle_of

REFINES = 0.7
"""Share of the noise up to which a pass keeps the picture that it is given."""

MAX_PASSES = 50
MAX_LEVELS = 20
"""Nodes in a row that change noise levels."""

NO_SAMPLER = "no saved picture leads to a sampler"
EMPTY = "its prompt is empty"
LOADED = "refines a picture that was loaded, whose prompt the graph does not hold"

PICTURES = re.compile(
    r"(?!.*(mask|ref|style|control|clip|vision|upscale_model|width|height|size|num|count|output))"
    r".*(image|pixel|sample|latent|video|frame|picture).*|destination|source|\d*",
    re.IGNORECASE,
)
"""Inputs that bring what becomes the picture."""

PARTS = re.compile(r"noise_?mask|inpaint", re.IGNORECASE)
"""Kinds that leave all but a part of a picture as it is."""

LOADERS = re.compile(
    r"load.*(image|latent|video|picture|frame)|(image|latent|video|picture|frame).*load",
    re.IGNORECASE,
)
"""Kinds that bring a picture from outside."""

CONTENTS = re.compile(
    r"(image|latent|video|url|path|directory|folder|file)s?(_(path|url|file|name))?"
)
"""Inputs that name such a picture, or hold it, as text."""

EMPTY_LATENT = re.compile(r"empty.*latent", re.IGNORECASE)
"""Kinds that bring nothing to refine: what is drawn upon them is new, whatever is loaded beside."""


def picture_of(graph: Graph, node_id: str) -> Answering:
    """The Generation of the picture that a node saves."""
    node = graph.nodes[node_id]
    passes = [node] if drawing(graph, node) else _passes(graph, _onward(graph, node))
    passes = passes or _anywhere(graph, node)
    if not passes:
        raise NoPromptError(NO_SAMPLER)
    found = yield (agreed_of, *(other.id for other in passes))
    if not found.prompt:
        raise NoPromptError(EMPTY)
    return found


def agreed_of(graph: Graph, *node_ids: str) -> Answering:
    """The Generation of what these passes give, if all that have words have the same."""
    found: list[Generation] = []
    for node_id in node_ids:
        found.append((yield (pass_of, node_id)))
    prompted = [generation for generation in found if generation.prompt] or found
    prompts = list(dict.fromkeys(generation.prompt for generation in prompted))
    if len(prompts) > 1:
        raise NoPromptError(
            f"it is made of {len(prompts)} pictures with different prompts: {_quoted(prompts)}"
        )
    return prompted[0]


def pass_of(graph: Graph, node_id: str) -> Answering:
    """The Generation of the picture that a sampler gives, told by the pass that drew it."""
    node = graph.nodes[node_id]
    read = drawing(graph, node)
    assert read is not None
    share = 0.0 if _draws_a_part(graph, node) else noise_share(graph, node)
    own: Generation | None = None
    silence: NoPromptError | None = None
    try:
        own = read(graph, node)
    except NoPromptError as error:
        silence = error
    draws = share is not None and share > REFINES and not _adds_noise(graph, node)
    if (share == 1 or draws) and (silence or (own and own.prompt)):
        return _told(own, silence)
    before = _passes(graph, _begun_with(graph, node))
    if not before and own and not own.prompt:
        before = _anywhere(graph, node)
    if not before:
        if share is not None and share <= REFINES and _loads(graph, node):
            raise NoPromptError(f"{node} {LOADED}")
        return _told(own, silence)
    try:
        earlier = yield (agreed_of, *(other.id for other in before))
    except NoPromptError as error:
        if str(error) != CIRCLE:
            raise
        return _told(own, silence)
    if share is not None and share <= REFINES:
        return earlier if earlier.prompt else _told(own, silence)
    own = _told(own, silence)
    if not own.prompt:
        return earlier
    if earlier.prompt in ("", own.prompt):
        return own
    raise NoPromptError(
        f"{node} redraws an earlier picture by other words, and the graph does not tell whose "
        f"describe it: {_quoted([earlier.prompt, own.prompt])}"
    )


def _told(own: Generation | None, silence: NoPromptError | None) -> Generation:
    if own is None:
        raise silence or NoPromptError(EMPTY)
    return own


def _quoted(prompts: list[str]) -> str:
    return ", ".join(repr(prompt[:40]) for prompt in prompts[:3])


def _begun_with(graph: Graph, node: Node) -> list[Link]:
    """What a sampler begins with: latents or a picture, else what its bundle holds."""
    links = graph.links(node)
    found = [link for name, link in links.items() if PICTURES.fullmatch(name)]
    bundle = bundle_of(graph, node)
    return found or ([bundle] if bundle else [])


def _passes(graph: Graph, links: list[Link]) -> list[Node]:
    """The nearest samplers behind these links, along what becomes the picture."""
    found = [node for node in _way(graph, links) if drawing(graph, node)]
    if len(found) > MAX_PASSES:
        raise NoPromptError(f"it is made of over {MAX_PASSES} passes")
    return found


def _draws_a_part(graph: Graph, node: Node) -> bool:
    """Whether what a sampler begins with is a picture of which a mask leaves the rest."""
    return any(
        PARTS.search(other.kind) and "mask" in graph.links(other)
        for other in _way(graph, _begun_with(graph, node))
    )


def _loads(graph: Graph, node: Node) -> bool:
    """Whether a sampler begins with a picture that no node of the graph makes."""
    behind = [*_way(graph, _begun_with(graph, node))]
    anew = any(EMPTY_LATENT.search(other.kind) for other in behind)
    return not anew and any(_brings(other) for other in behind if not _onward(graph, other))


def _brings(node: Node) -> bool:
    held = (name for name, value in node.inputs.items() if isinstance(value, str))
    return bool(LOADERS.search(node.kind) or any(map(CONTENTS.fullmatch, held)))


def _way(graph: Graph, links: list[Link]) -> Iterator[Node]:
    """The nodes behind these links, nearest first, along what becomes the picture, up to samplers."""
    waiting, seen = deque(links), set()
    while waiting:
        node = source_of(graph, waiting.popleft())
        if node is None or node.id in seen:
            continue
        seen.add(node.id)
        graph.look()
        yield node
        if not drawing(graph, node):
            waiting += _onward(graph, node)


def _anywhere(graph: Graph, node: Node) -> list[Node]:
    """The nearest sampler that a node depends on in any way."""
    others = (other for other in upstream(graph, node) if other.id != node.id)
    return [other for other in others if drawing(graph, other)][:1]


def _onward(graph: Graph, node: Node) -> list[Link]:
    """The links along which a node's picture came; all, where their names tell nothing."""
    links = {name: at for name, at in graph.links(node).items() if name not in SIDEWAYS}
    pictures = [link for name, link in links.items() if PICTURES.fullmatch(name)]
    bundle = bundle_of(graph, node)
    return [*pictures, *([bundle] if bundle else [])] or [*links.values()]


def noise_share(graph: Graph, node: Node) -> float | None:
    """How much of the noise a pass begins with; 1 draws anew, None is not known."""
    start, steps = (number(graph, node, name) for name in ("start_at_step", "steps"))
    if start is not None and steps:
        return _within(1 - start / steps)
    for name in ("denoise", "denoise_strength"):
        if node.inputs.get(name) is not None:
            share = number(graph, node, name)
            return None if share is None else _within(share)
    link = graph.links(node).get("sigmas")
    if link:
        return _share_of_levels(graph, link)
    return 1.0 if node.kind == "KSampler" else None  # the host's default


def _share_of_levels(graph: Graph, link: Link | None) -> float | None:
    """The same of a row of nodes that make noise levels and cut them."""
    for _ in range(MAX_LEVELS):
        behind = graph.link(graph.follow(link))
        if behind is None:
            return None
        node, slot = graph.nodes[behind[0]], behind[1]
        link = graph.links(node).get("sigmas")
        if node.kind == "SplitSigmas" and slot == 1:
            cut, steps = number(graph, node, "step"), _steps(graph, link)
            return _within(1 - cut / steps) if cut is not None and steps else None
        if "denoise" in node.inputs and (slot == 1 or not node.kind.startswith("Split")):
            share = number(graph, node, "denoise")
            return None if share is None else _within(share)
        if link is None:
            return 1.0 if "steps" in node.inputs else None
    return None


def _steps(graph: Graph, link: Link | None) -> float | None:
    source = source_of(graph, link)
    return number(graph, source, "steps") if source else None


def _within(share: float) -> float:
    return min(1.0, max(0.0, share))


def _adds_noise(graph: Graph, node: Node) -> bool:
    noise = source_of(graph, graph.links(node).get("noise"))
    return node.inputs.get("add_noise") not in (False, "disable") and (
        noise is None or noise.kind != "DisableNoise"
    )
