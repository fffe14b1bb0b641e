"""ComfyUI's graphs: from the node that saved a picture back to the text that it was made from."""

from .trace import generation_of
from .workflow import api_graph, typed

__all__ = ["api_graph", "generation_of", "typed"]
