"""The one list of nodes."""

from . import (
    compare,
    datasets,
    evaluate,
    guide,
    pick,
    preview,
    save,
    settings,
    test_prompts,
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
    *test_prompts.NODES,
    *train.NODES,
    *preview.NODES,
    *save.NODES,
    *guide.NODES,
    *evaluate.NODES,
    *compare.NODES,
]
