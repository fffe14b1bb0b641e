"""What is known when a graph is queued: the inputs of every node, and which page asked. And how a node refuses then.

The host gives `validate_inputs` what it names and repeats an error for each of these, so ours name one input and look
the others up here. The one it names has a default: the host leaves it out where nothing is connected, and says so itself.
"""

from collections.abc import Callable
from contextvars import ContextVar
from itertools import count
from typing import Any

from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..seppo_core.errors import SePPOError

UNKNOWN = (None,)
"""What a node whose inputs are lists is given for one that is linked: it is known only when the graph runs."""

_REQUEST: ContextVar[dict[str, Any]] = ContextVar("seppo_request", default={})  # noqa: B039 (never changed)
_NUMBER: ContextVar[int] = ContextVar("seppo_request_number", default=0)
_numbers = count(1)


def listen(server: PromptServer) -> None:
    server.add_on_prompt_handler(remember)


def remember(request: dict[str, Any]) -> dict[str, Any]:
    """The host gives every request to queue a graph, and validates it in the same task."""
    _REQUEST.set(request)
    _NUMBER.set(next(_numbers))
    return request


def inputs() -> dict[str, Any]:
    """Of the node that is validated: a link is [node, output]."""
    context = get_executing_context()
    return {} if context is None else _inputs_of(context.node_id)


def linked(name: str) -> dict[str, Any]:
    """Inputs of the node that is linked to an input of the one that is validated; empty without a link."""
    return _inputs_of(_linked_id(name))


def linked_class(name: str) -> str:
    """The class of that node."""
    return _class(_linked_id(name))


def behind(name: str, *others: str) -> tuple[str, dict[str, Any]]:
    """Class and inputs of the node that is linked to that node's input of the next name, and so on."""
    node_id = _linked_id(name)
    for other in others:
        node_id = _origin(_inputs_of(node_id).get(other))
    return _class(node_id), _inputs_of(node_id)


def _linked_id(name: str) -> Any:
    return _origin(inputs().get(name))


def _origin(link: Any) -> Any:
    return link[0] if isinstance(link, list) and link else None


def _class(node_id: Any) -> str:
    return str(_node(node_id).get("class_type", ""))


def _inputs_of(node_id: Any) -> dict[str, Any]:
    found = _node(node_id).get("inputs")
    return found if isinstance(found, dict) else {}


def _node(node_id: Any) -> dict[str, Any]:
    graph = _REQUEST.get().get("prompt")
    node = graph.get(str(node_id)) if isinstance(graph, dict) else None
    return node if isinstance(node, dict) else {}


def checked(node: type[io.ComfyNode], check: Callable[[], Any]) -> bool | str:
    """For `validate_inputs`: True, or what `check` finds wrong.

    The page that queued is told as well, for the host's own words come before a node's there.
    """
    try:
        check()
    except SePPOError as error:
        page, server = _REQUEST.get().get("client_id"), getattr(PromptServer, "instance", None)
        if page and server is not None:
            said = {"node": node.define_schema().display_name, "said": str(error)}
            server.send_sync("seppo.refused", said | {"request": _NUMBER.get()}, page)
        return str(error)
    return True
