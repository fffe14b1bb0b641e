"""Global generators around foreign code: seeded for it, and afterwards as they were."""

import pytest
import torch

from seppo_core.randomness import isolated_global_rng


def test_foreign_code_draws_the_same_whatever_was_drawn_before_and_leaves_no_trace():
    drawn = []
    for before in (1, 2):
        torch.manual_seed(before)
        state = torch.get_rng_state()
        with isolated_global_rng(7):
            drawn.append(torch.randn(3))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*drawn)
    with isolated_global_rng(8):
        assert not torch.equal(torch.randn(3), drawn[0])


@pytest.mark.parametrize(
    ("backend", "in_use", "suffix"),
    [
        (torch.mps, (torch.backends.mps, "is_available"), ""),
        (torch.xpu, (torch.xpu, "is_initialized"), "_all"),
    ],
)
def test_generators_of_other_devices_are_given_back_even_after_an_error(
    monkeypatch, backend, in_use, suffix
):
    """Neither device is here, so torch's own functions are stood in for; `state` is the device's."""
    state = {"seed": 5}
    monkeypatch.setattr(*in_use, lambda: True)
    monkeypatch.setattr(backend, f"get_rng_state{suffix}", lambda: state["seed"])
    monkeypatch.setattr(backend, f"set_rng_state{suffix}", lambda seed: state.update(seed=seed))
    monkeypatch.setattr(backend, f"manual_seed{suffix}", lambda seed: state.update(seed=seed))
    with pytest.raises(KeyError), isolated_global_rng(7):
        assert state["seed"] == 7
        raise KeyError
    assert state["seed"] == 5
