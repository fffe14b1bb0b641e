"""The one list of nodes."""

from . import (
    compare,
    datasets,
    evaluate,
    pick,
    preview,
    probes,
    save,
    settings,
    train,
    videos,
    winners,
)

NODES = [
    *winners.NODES,
    *pick.NODES,
    *videos.NODES,
    *datasets.NODES,
    *settings.NODES,
    *probes.NODES,
    *train.NODES,
    *preview.NODES,
    *save.NODES,
    *evaluate.NODES,
    *compare.NODES,
]
