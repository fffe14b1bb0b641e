"""ComfyUI's graphs: from the node that saved a picture back to the text that it was made from."""

from typing import Any

from .generation import Generation, NoPromptError


def generation_of(graph: Any, name: str) -> Generation:
    """What the graph (ComfyUI's API format) says of the picture `name`. NoPromptError says why nothing."""
    nodes = [node for node in graph.values() if isinstance(node, dict)]
    for node in nodes:
        inputs = node.get("inputs", {})
        if node.get("class_type") in ("KSampler", "KSamplerAdvanced"):
            texts = [graph[inputs[name][0]]["inputs"]["text"] for name in ("positive", "negative")]
            return Generation(*texts, inputs.get("seed"), inputs.get("steps"), inputs.get("cfg"))
    raise NoPromptError("no saved picture leads to a sampler")
