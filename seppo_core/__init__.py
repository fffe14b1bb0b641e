"""SePPO: align a diffusion model from winning images alone. Public names."""

from .errors import SePPOError
from .method.objectives import CRITERIA, DenoisingErrors, LossTerms, seppo_loss
from .method.references import SELECTIONS, ReferencePool
from .runs.report import StepReport
from .training.config import SePPOConfig
from .training.trainer import train

__version__ = "0.1.0"

__all__ = [
    "CRITERIA",
    "SELECTIONS",
    "DenoisingErrors",
    "LossTerms",
    "ReferencePool",
    "SePPOConfig",
    "SePPOError",
    "StepReport",
    "seppo_loss",
    "train",
]
