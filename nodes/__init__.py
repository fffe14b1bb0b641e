"""The one list of nodes."""

from . import datasets, preview, save, settings, train, winners

NODES = [
    *winners.NODES,
    *datasets.NODES,
    *settings.NODES,
    *train.NODES,
    *preview.NODES,
    *save.NODES,
]
