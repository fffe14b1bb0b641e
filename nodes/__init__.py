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
    taste,
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
    *taste.NODES,
    *compare.NODES,
]
