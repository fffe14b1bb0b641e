"""The one list of nodes."""

from . import data, preview, save, settings, train

NODES = [*data.NODES, *settings.NODES, *train.NODES, *preview.NODES, *save.NODES]
