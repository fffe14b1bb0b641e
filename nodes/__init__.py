"""The one list of nodes."""

from . import data, preview, save, train

NODES = [*data.NODES, *train.NODES, *preview.NODES, *save.NODES]
