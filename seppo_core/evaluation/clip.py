"""CLIP as scorers use it: pictures and captions as unit vectors, from weights in either published layout.

Scorers differ in the weights and in what they make of the vectors; that is theirs.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from ..data.captions import encodable
from ..errors import ConfigError, MissingPackageError, ScorerError
from ..files import first_line
from ..settings import load_json
from .weights import Files, read_tensors

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue in what OpenAI trained CLIP on; LAION's and the scorers keep them."""

HEADS = 16
"""Attention heads of both towers of open_clip's ViT-H-14, which no tensor tells."""

Layout = tuple[dict[str, Any], dict[str, Tensor]]
"""what transformers' CLIPConfig is made of, and tensors under the names of its CLIPModel"""


def transformers_classes() -> Any:
    try:
        import transformers
    except ImportError:
        raise MissingPackageError(
            "scoring needs the package transformers: pip install 'seppo[scorers]'"
        ) from None
    return transformers


class Clip:
    """A CLIP at hand on a device, in float32."""

    def __init__(self, network: Any, tokenizer: Any) -> None:
        self.network = network
        self.tokenizer = tokenizer
        """None where no caption is read"""

    @property
    def scale(self) -> float:
        """What training multiplied similarities by."""
        return float(self.network.logit_scale.exp())

    @torch.no_grad()
    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Unit vectors [B, D] of RGB pictures of any sizes."""
        side = self.network.config.vision_config.image_size
        batch = torch.stack([pixels(picture, side) for picture in pictures])
        seen = self.network.vision_model(pixel_values=batch.to(self.network.device))
        return normalize(self.network.visual_projection(seen.pooler_output), dim=-1)

    @torch.no_grad()
    def captions(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [B, D]; what is beyond the longest text CLIP takes (77 tokens) is cut off."""
        longest = self.network.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            [encodable(text) for text in texts],
            padding=True,
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        )
        read = self.network.text_model(input_ids=tokens["input_ids"].to(self.network.device))
        return normalize(self.network.text_projection(read.pooler_output), dim=-1)


def pixels(picture: Image.Image, side: int) -> Tensor:
    """CLIP's input [3, side, side]: shorter side resized by bicubic interpolation, middle cut out, normalised."""
    size = [side * length // min(picture.size) for length in picture.size]
    resized = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top = ((length - side) // 2 for length in size)
    values = np.asarray(resized.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
    normal = (values - np.float32(MEAN)) / np.float32(DEVIATION)
    return rearrange(torch.from_numpy(normal), "height width colour -> colour height width")


def load_clip(files: Files, layout: Layout, device: torch.device) -> Clip:
    """The network with exactly these tensors, in float32; ScorerError if any is missing or does not fit."""
    config, tensors = layout
    with torch.inference_mode(False):
        network = _without_weights(config, files.config or files.weights)
        tensors = {name: t.float() for name, t in tensors.items() if "position_ids" not in name}
        try:
            loaded = network.load_state_dict(tensors, strict=False, assign=True)
        except RuntimeError as error:
            raise ScorerError(
                f"{files.weights}: does not fit its configuration ({error})"
            ) from None
        odd = [*loaded.missing_keys, *loaded.unexpected_keys]
        if odd:
            raise ScorerError(
                f"{files.weights}: is not the CLIP that this scorer needs; {len(loaded.missing_keys)} tensors "
                f"are missing and {len(loaded.unexpected_keys)} unknown (first: {odd[0]})"
            )
        for name, positions in network.named_buffers():  # the only ones, and in no file
            owner = network.get_submodule(name.rpartition(".")[0])
            owner.position_ids = torch.arange(positions.shape[-1])[None]
        network = network.to(device).eval().requires_grad_(False)
    return Clip(network, _tokenizer(files.words) if files.words else None)


def _without_weights(config: dict[str, Any], path: Path) -> Any:
    transformers = transformers_classes()
    try:
        with torch.device("meta"):
            return transformers.CLIPModel(transformers.CLIPConfig.from_dict(config))
    except Exception as error:  # whatever odd values raise, by the version of transformers
        raise ScorerError(f"{path}: describes no CLIP ({first_line(error)})") from None


def _tokenizer(folder: Path) -> Any:
    classes = transformers_classes()
    try:
        return classes.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers' own, which are of no narrower type
        raise ScorerError(f"{folder}: its tokenizer cannot be read ({first_line(error)})") from None


# Layouts


def own_layout(files: Files) -> Layout:
    """As transformers saves a CLIP: config.json beside the weights."""
    if files.config is None:
        raise ScorerError(
            f"{files.weights.parent}: config.json is missing; put it beside {files.weights.name}, as published"
        )
    try:
        config = load_json(files.config)
    except ConfigError as error:
        raise ScorerError(f"{error}; this file describes no CLIP, fetch it again") from None
    return config, read_tensors(files.weights)


def either_layout(files: Files) -> Layout:
    """open_clip's ViT-H-14 without any configuration, or what `own_layout` reads."""
    if files.config is not None:
        return own_layout(files)
    found = read_tensors(files.weights)
    if "visual.conv1.weight" not in found:
        raise ScorerError(
            f"{files.weights}: holds no CLIP in the names of open_clip (no visual.conv1)"
        )
    try:
        return open_clip_config(found), from_open_clip(found)
    except (KeyError, ValueError, IndexError) as error:
        raise ScorerError(f"{files.weights}: is no whole CLIP of open_clip ({error})") from None


def open_clip_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """A CLIPConfig's values for the sizes that the tensors have."""
    width, _, patch, _ = tensors["visual.conv1.weight"].shape
    grid = round((len(tensors["visual.positional_embedding"]) - 1) ** 0.5)
    vocabulary, text_width = tensors["token_embedding.weight"].shape
    common = {"num_attention_heads": HEADS, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
    vision = {
        "hidden_size": width,
        "intermediate_size": len(tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
        "num_hidden_layers": _count(tensors, "visual.transformer.resblocks."),
        "image_size": grid * patch,
        "patch_size": patch,
    }
    text = {
        "hidden_size": text_width,
        "intermediate_size": len(tensors["transformer.resblocks.0.mlp.c_fc.weight"]),
        "num_hidden_layers": _count(tensors, "transformer.resblocks."),
        "max_position_embeddings": len(tensors["positional_embedding"]),
        "vocab_size": vocabulary,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    return {
        "vision_config": vision | common,
        "text_config": text | common,
        "projection_dim": tensors["text_projection"].shape[1],
    }


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return sum(name.startswith(prefix) and name.endswith("ln_1.weight") for name in tensors)


RENAMED = (
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
)
"""open_clip's names as regular expressions -> transformers' names."""

TURNED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
"""Matrices that open_clip multiplies from the other side."""

FUSED = re.compile(r"\.attn\.in_proj_(weight|bias)$")
"""Queries, keys and values in one."""

NOT_WEIGHTS = {"attn_mask"}


def from_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of transformers' CLIPModel."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in NOT_WEIGHTS:
            continue
        if name in TURNED:
            renamed[TURNED[name]] = tensor.T.contiguous()
            continue
        new = name
        for pattern, replacement in RENAMED:
            new = re.sub(pattern, replacement, new)
        if found := FUSED.search(new):
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{new[: found.start()]}.self_attn.{part}_proj.{found[1]}"] = rows
        else:
            renamed[new] = tensor
    return renamed
