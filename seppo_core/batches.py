"""`BatchPlan` under the name by which scripts of other people import it."""

from .training.batch import BatchPlan

__all__ = ["BatchPlan"]
