"""Choices of another type than text, as a program that talks to a host may send them: refused by their names."""

import pytest

from seppo_core.adapters.files import file_tensors
from seppo_core.data.parquet import read_parquet
from seppo_core.data.prepare import Preparation
from seppo_core.data.readers import Reading
from seppo_core.data.similar import examine
from seppo_core.errors import ConfigError
from seppo_core.method.objectives import make_criterion
from seppo_core.views.anchor import PreviewSettings


@pytest.mark.parametrize("value", [{}, [], {"a": 1}, None, 3])
@pytest.mark.parametrize(
    "choose",
    [
        lambda value, path: PreviewSettings(reference=value),
        lambda value, path: Preparation(mode=value),
        lambda value, path: Preparation(fit=value),
        lambda value, path: Reading(captions=value),
        lambda value, path: read_parquet(path, Reading(ties=value)),
        lambda value, path: examine(None, value),
        lambda value, path: make_criterion(value),
        lambda value, path: file_tensors({}, scale=1.0, format=value, component="unet"),
    ],
    ids=["reference", "mode", "fit", "captions", "ties", "duplicates", "criterion", "format"],
)
def test_a_choice_that_is_no_text_is_refused(tmp_path, choose, value):
    with pytest.raises(ConfigError, match="unknown .*choose from"):
        choose(value, tmp_path)
