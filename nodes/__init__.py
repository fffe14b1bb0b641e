"""The one list of nodes."""

from . import datasets, pick, preview, save, settings, train, videos, winners

NODES = [
    *winners.NODES,
    *pick.NODES,
    *videos.NODES,
    *datasets.NODES,
    *settings.NODES,
    *train.NODES,
    *preview.NODES,
    *save.NODES,
]
