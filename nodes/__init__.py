"""The one list of nodes."""

from . import datasets, preview, save, settings, train, videos, winners

NODES = [
    *winners.NODES,
    *videos.NODES,
    *datasets.NODES,
    *settings.NODES,
    *train.NODES,
    *preview.NODES,
    *save.NODES,
]
