"""SePPO: align a diffusion model from winning images alone. Public names."""

from .config import SePPOConfig
from .errors import SePPOError
from .loss import CRITERIA, DenoisingErrors, LossTerms, seppo_loss
from .references import SELECTIONS, ReferencePool
from .report import StepReport
from .trainer import train

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
