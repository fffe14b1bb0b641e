"""The one list of nodes."""

from . import datasets, preview, probes, save, settings, train, videos, winners

NODES = [
    *winners.NODES,
    *videos.NODES,
    *datasets.NODES,
    *settings.NODES,
    *probes.NODES,
    *train.NODES,
    *preview.NODES,
    *save.NODES,
]
