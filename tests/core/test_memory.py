"""What a run says of the memory that its steps take."""

import logging

import pytest
import torch

from seppo_core.training import memory
from seppo_core.training.config import SePPOConfig
from seppo_core.training.trainer import train

GIB = 2**30


@pytest.fixture
def device(monkeypatch, caplog):
    """A device with 10 GiB of which `now` and `highest` are in use, in GiB; the log is on."""
    caplog.set_level(logging.INFO)
    state = {"now": 2.0, "highest": 2.0}
    used = lambda device: (int(state["now"] * GIB), int(state["highest"] * GIB))  # noqa: E731
    monkeypatch.setattr(memory, "used_bytes", used)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int((10 - state["now"]) * GIB))
    return state


def looked(footprint, state, caplog, step, highest):
    caplog.clear()
    state["highest"] = highest
    footprint.look(step)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_first_step_says_what_it_took_and_left(device, caplog):
    footprint = memory.Footprint(torch.device("cpu"), SePPOConfig())
    # 5 GiB at the highest, of which 2 were the model; 10 - 5 were left then
    expected = "step 1 took 3.0 GiB beside the model, and cpu had 5.0 GiB left"
    assert looked(footprint, device, caplog, 1, highest=5.0) == [("INFO", expected)]


def test_later_steps_speak_only_if_they_took_a_tenth_more(device, caplog):
    footprint = memory.Footprint(torch.device("cpu"), SePPOConfig())
    looked(footprint, device, caplog, 1, highest=5.0)
    assert looked(footprint, device, caplog, 2, highest=5.2) == []
    assert len(looked(footprint, device, caplog, 3, highest=5.4)) == 1
    assert looked(footprint, device, caplog, 4, highest=5.4) == []


def test_little_room_is_a_warning_with_what_would_help(device, caplog):
    footprint = memory.Footprint(torch.device("cpu"), SePPOConfig(batch_size=2))
    ((level, text),) = looked(footprint, device, caplog, 1, highest=9.5)
    assert level == "WARNING"
    assert "took 7.5 GiB beside the model, and cpu had 0.5 GiB left" in text
    assert "turn gradient_checkpointing on; lower batch_size (now 2)" in text


def test_a_run_looks_after_its_first_step(policy, dataset, device, caplog):
    device["highest"] = 3.0
    seen = []
    for report in train(policy, dataset, SePPOConfig(steps=2)):
        seen.append((report.step, caplog.text.count("beside the model")))
    assert seen == [(1, 1), (2, 1)]


def test_a_device_that_tells_nothing_is_not_asked_again(policy, dataset, caplog):
    with caplog.at_level(logging.INFO):
        list(train(policy, dataset, SePPOConfig(steps=1)))
    assert "beside the model" not in caplog.text
