"""What a graph tells of a picture: how it was generated, as far as every node that may have saved it agrees."""

from collections.abc import Callable
from typing import Any

from ..generation import Generation, NoPromptError
from .nodes import Graph, Node, answer
from .passes import NO_SAMPLER, picture_of
from .saves import Size, saved_size, saving_nodes


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
        fitting = [save for save in saves if saved_size(graph, save) in (None, actual)]
        if actual is None or not 0 < len(fitting) < len(saves):
            raise
        return _agreed(graph, fitting)


def _agreed(graph: Graph, saves: list[Node]) -> Generation:
    """The generation of the pictures that these nodes save, if all of them have one prompt."""
    found: list[Generation] = []
    reasons: list[str] = []
    for save in saves:
        try:
            found.append(answer(graph, (picture_of, save.id)))
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
