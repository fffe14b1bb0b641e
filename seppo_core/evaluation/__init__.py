"""The one table of scorers, and what each makes of CLIP's vectors. Using them is scoring.py's."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import linear

from ..errors import ConfigError
from .clip import Layout, either_layout, own_layout
from .weights import Files


@dataclass(frozen=True)
class Embeddings:
    """What a formula scores."""

    images: Tensor
    """unit vectors [B, D]"""
    captions: Tensor
    """unit vectors [B, D]; empty where the scorer reads no caption"""
    scale: float
    """CLIP's learned factor on similarities"""
    head: tuple[tuple[Tensor, Tensor], ...]
    """weight [out, in] and bias [out] of each layer after CLIP"""

    def similarity(self) -> Tensor:
        """Cosine [B] of each picture with its caption."""
        return (self.images * self.captions).sum(-1)


def pickscore(seen: Embeddings) -> Tensor:
    """Kirstain et al. 2023 (arXiv 2305.01569), as their released model is used: the similarity, scaled."""
    return seen.scale * seen.similarity()


def hps(seen: Embeddings) -> Tensor:
    """Wu et al. 2023 (arXiv 2306.09341): the similarity in percent, as their tables tell it."""
    return 100 * seen.similarity()


def clip_score(seen: Embeddings) -> Tensor:
    """Hessel et al. 2021 (arXiv 2104.08718), with the factor 100 that torchmetrics has; never below 0."""
    return (100 * seen.similarity()).clamp(min=0)


def aesthetic(seen: Embeddings) -> Tensor:
    """Schuhmann's improved aesthetic predictor: linear layers on the picture's vector, nothing between them."""
    values = seen.images
    for weight, bias in seen.head:
        values = linear(values, weight, bias)
    return values[:, 0]


@dataclass(frozen=True)
class Scorer:
    """A row of SCORERS: a formula, and which weights it is for."""

    formula: Callable[[Embeddings], Tensor]
    """scores [B]"""
    folder: str
    """its usual name below the scorers' folder"""
    weights: tuple[str, ...]
    """names of the file with CLIP's weights, the first that is there is read"""
    get: str
    """what to get, for messages"""
    hub: tuple[str, ...]
    """repositories that hold all of it"""
    layout: Callable[[Files], Layout] = own_layout
    head: tuple[str, ...] = ()
    """names of the file with the layers after CLIP"""
    reads_captions: bool = True


OWN = ("model.safetensors", "pytorch_model.bin")

SCORERS: dict[str, Scorer] = {
    "pickscore": Scorer(
        pickscore,
        folder="PickScore_v1",
        weights=OWN,
        get="all of yuvalkirstain/PickScore_v1 on huggingface.co",
        hub=("yuvalkirstain/PickScore_v1",),
    ),
    "hpsv2.1": Scorer(
        hps,
        folder="HPSv2",
        weights=("HPS_v2.1_compressed.pt", "HPS_v2.1_compressed.safetensors", *OWN),
        get="HPS_v2.1_compressed.pt of xswu/HPSv2 on huggingface.co, and the tokenizer of any CLIP",
        hub=("xswu/HPSv2",),
        layout=either_layout,
    ),
    "aesthetic": Scorer(
        aesthetic,
        folder="aesthetic",
        weights=OWN,
        get="config.json and model.safetensors of openai/clip-vit-large-patch14 on huggingface.co, and "
        "sac+logos+ava1-l14-linearMSE.pth of christophschuhmann/improved-aesthetic-predictor on github.com",
        hub=(),
        head=("sac+logos+ava1-l14-linearMSE.pth", "sac+logos+ava1-l14-linearMSE.safetensors"),
        reads_captions=False,
    ),
    "clip": Scorer(
        clip_score,
        folder="clip-vit-large-patch14",
        weights=OWN,
        get="config.json, model.safetensors and tokenizer.json of openai/clip-vit-large-patch14 on "
        "huggingface.co",
        hub=("openai/clip-vit-large-patch14",),
    ),
}
"""Name -> the scorer. Higher is better for all of them."""


def make_scorer(name: str) -> Scorer:
    if name not in list(SCORERS):
        raise ConfigError(f"unknown scorer {name!r}; choose from {list(SCORERS)}")
    return SCORERS[name]
