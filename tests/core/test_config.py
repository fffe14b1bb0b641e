"""Settings are checked once, by name, and travel through JSON unchanged."""

import dataclasses
import json
import typing
from collections.abc import Iterator

import pytest

from seppo_core.adapters.lora import ADAPTERS
from seppo_core.errors import ConfigError
from seppo_core.method.levels import DISTRIBUTIONS
from seppo_core.settings import Section, from_dict, inputs, load_json, override, setting
from seppo_core.training.config import PRESETS, SePPOConfig, apply_preset

SET_BY_PRESETS = {"loss.objective", "loss.paired"}
SET_BY_NODES = {"run.directory", "run.initial_weights", "loss.guidance"}
ONE_CHOICE = {"lora.adapter", "levels.distribution"}


def settings_of(section: type, path: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from settings_of(hints[field.name], f"{path}{field.name}.")
        else:
            yield path + field.name


def test_every_setting_is_on_a_node_or_set_by_one():
    """A setting with words is an input; nodes/settings.py puts every one of them on some node."""
    every = set(settings_of(SePPOConfig))
    on_nodes = [one.path for one in inputs(SePPOConfig)]
    assert every - set(on_nodes) == SET_BY_PRESETS | SET_BY_NODES | ONE_CHOICE
    assert len(ADAPTERS) == len(DISTRIBUTIONS) == 1
    assert len(on_nodes) == len(set(on_nodes))


def test_no_two_inputs_of_one_node_have_one_name():
    names = [one.name for one in inputs(SePPOConfig) if one.section != "references"]
    assert len(names) == len(set(names))


@dataclasses.dataclass(frozen=True)
class Sample(Section, section="sample"):
    share: float = setting(0.5, "a share", above=0, below=1)
    most: int = setting(3, "a number", least=2, most=5)
    kind: str = setting("a", choices=("a", "b"))
    free: float = 0.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 0.0}, r"sample.share must lie in \(0, 1\), got 0.0"),
        ({"share": float("nan")}, "sample.share must lie in"),
        ({"most": 6}, r"sample.most must lie in \[2, 5\], got 6"),
        ({"kind": "c"}, "sample.kind: unknown 'c'; choose from"),
    ],
)
def test_a_setting_out_of_its_bounds_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        Sample(**values)
    Sample(free=float("nan"))


def test_a_configuration_survives_json():
    config = from_dict(
        SePPOConfig,
        {"steps": 7, "loss": {"beta": 500}, "optimizer": {"name": "adafactor"}, "seed": 2**60},
    )
    assert config.loss.beta == 500.0
    assert from_dict(SePPOConfig, json.loads(json.dumps(config.as_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora": {"rank": 0}}, "lora.rank must be at least 1, got 0"),
        ({"lora": {"pattern": "("}}, "lora.pattern '\\(' is not a regular expression"),
        ({"loss": {"beta": 0}}, "loss.beta must be positive, got 0"),
        ({"loss": {"beta": -5.0}}, "loss.beta must be positive, got -5"),
        ({"loss": {"criterion": "coin"}}, "loss.criterion: unknown 'coin'; choose from"),
        ({"loss": {"loser_weight": 1.5}}, r"loss.loser_weight must lie in \[0, 1\]"),
        ({"references": {"selection": "best"}}, "references.selection: unknown 'best'"),
        ({"references": {"capacity": 0}}, "references.capacity must be at least 1"),
        ({"optimizer": {"name": "sgd"}}, "optimizer.name: unknown 'sgd'; choose from"),
        ({"optimizer": {"warmup": 1.0}}, r"optimizer.warmup must lie in \[0, 1\)"),
        ({"optimizer": {"name": "prodigy"}}, "prodigy.*learning_rate.*1.0"),
        ({"compute": {"precision": "int8"}}, "compute.precision: unknown 'int8'"),
        ({"run": {"held_out_every": -1}}, "run.held_out_every must not be negative, got -1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": "many"}, "steps: expected int, got 'many'"),
        ({"steps": True}, "steps: expected int, got True"),
        ({"loss": {"betta": 1}}, "unknown setting loss.betta; known here"),
        ({"loss": 3}, "loss: expected a JSON object, got 3"),
    ],
)
def test_a_wrong_setting_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(SePPOConfig, values)


def test_presets_set_criterion_and_selection_over_the_other_settings():
    settings = {"loss": {"beta": 9.0, "criterion": "constant"}, "references": {"capacity": 3}}
    expected = {
        "seppo": ("preference", "sign", "random", False),
        "indicator": ("preference", "indicator", "random", False),
        "spin": ("preference", "none", "latest", False),
        "dpo": ("preference", "none", "initial", True),
        "sft": ("winner_error", "constant", "random", False),
        "guided": ("guided", "constant", "initial", False),
        "custom": ("preference", "constant", "random", False),
    }
    assert set(PRESETS) == set(expected)
    for name, choice in expected.items():
        config = from_dict(SePPOConfig, apply_preset(name, settings))
        loss, references = config.loss, config.references
        assert (loss.objective, loss.criterion, references.selection, loss.paired) == choice
        assert (loss.beta, references.capacity) == (9.0, 3)
    with pytest.raises(ConfigError, match="preset: unknown 'ppo'"):
        apply_preset("ppo", {})


def test_override_reads_json_values_and_bare_words():
    values = {"loss": {"beta": 1}}
    override(values, "loss.beta=500")
    override(values, "optimizer.name=lion")
    override(values, "lora.rank=4")
    assert values == {"loss": {"beta": 500}, "optimizer": {"name": "lion"}, "lora": {"rank": 4}}
    with pytest.raises(ConfigError, match="expected section.name=value"):
        override(values, "beta")


def test_files_that_are_no_json_object_are_named(tmp_path):
    path = tmp_path / "run.json"
    with pytest.raises(ConfigError, match="there is no such file"):
        load_json(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="run.json: not valid JSON"):
        load_json(path)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="expected a JSON object"):
        load_json(path)


def test_reuse_makes_a_window_only_where_samples_are_drawn():
    references = {"reuse": 4}
    for preset, shared in (("seppo", 4), ("spin", 4), ("sft", 1), ("guided", 1), ("dpo", 1)):
        values = apply_preset(preset, {"references": references})
        assert from_dict(SePPOConfig, values).steps_per_batch == shared
