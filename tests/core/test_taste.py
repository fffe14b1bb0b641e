"""The taste probe: features of the base, folds by caption, and what is said of pictures."""

import pytest
import torch
from test_diffusers import FP32, make, text

from seppo_core.adapters.lora import LoRA, LoRAConfig
from seppo_core.errors import DatasetError
from seppo_core.evaluation.taste import CERTAIN, features, judge, learn, report
from seppo_core.randomness import normal

CAPTIONS = [f"caption {i}" for i in range(30)]


def rows(name: str, shift: float = 0.0, count: int = 30) -> torch.Tensor:
    """Features [N, 40]; `shift` moves the first ten."""
    found = normal((count, 40), name)
    found[:, :10] += shift
    return found


@pytest.fixture(scope="module")
def taste():
    return learn(rows("winners", 2.0), rows("base"), CAPTIONS)


def test_what_differs_is_told_on_pictures_that_no_fit_saw(taste):
    assert taste.accuracy > 0.9 and taste.is_certain
    scores = [taste.score(rows("new", shift)).mean().item() for shift in (0.0, 0.5, 1.0, 2.0)]
    assert scores == sorted(scores)
    assert scores[0] < 0.2 and scores[-1] > 0.8


def test_what_does_not_differ_is_said_to_be_unknown():
    taste = learn(rows("winners"), rows("base"), CAPTIONS)
    assert taste.accuracy < CERTAIN
    assert report(judge(taste, rows("new"), CAPTIONS)).startswith("Cannot tell your winners from")


def test_a_caption_that_repeats_is_in_one_fold_so_that_it_gives_nothing_away():
    """Ten captions with features of their own, three pictures of each kind: a fit that saw a caption would know it."""
    captions = [f"caption {i % 10}" for i in range(30)]
    of_caption = torch.stack([normal((40,), "caption", i % 10) for i in range(30)])
    kinds = [of_caption * sign + 0.1 * normal((30, 40), sign) for sign in (1, -1)]
    assert learn(*kinds, captions).accuracy < CERTAIN
    assert learn(*kinds, CAPTIONS).accuracy > 0.9


def test_too_few_captions_are_named():
    with pytest.raises(DatasetError, match="9 different captions; a taste is learned from 10"):
        learn(rows("w", count=9), rows("b", count=9), CAPTIONS[:9])


def test_pictures_of_the_base_are_kept_and_copies_are_found(taste):
    before = rows("before")
    same = judge(taste, before, CAPTIONS, before)
    assert same.kept == pytest.approx(1.0, abs=1e-5) and same.copies == 0
    others = judge(taste, rows("others", 2.0), CAPTIONS, before)
    assert others.kept < 0.5
    copied = judge(taste, taste.winners[:4] + 0.01 * rows("n", count=4), CAPTIONS)
    assert copied.copies == 4 and copied.nearest > 0.99 and copied.kept is None
    assert "4 look copied" in report(copied)


def test_pictures_that_are_all_alike_have_less_diversity(taste):
    assert judge(taste, rows("new"), CAPTIONS).diversity == pytest.approx(1.0, abs=0.1)
    alike = rows("one", count=1) + 0.1 * rows("noise")
    assert judge(taste, alike, CAPTIONS).diversity < 0.1


@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_features_are_of_the_base_whatever_the_policy_and_the_batch(kind):
    policy = make(kind)
    latents = [normal((4, 8, 8), "x", i) for i in range(5)] + [normal((4, 8, 16), "x", 5)]
    conds = [text(kind, i) for i in range(6)]
    with policy.session(FP32):
        found = features(policy, latents, conds, batch_size=4)
        assert len(found) == 6 and found.isfinite().all()
        one_by_one = features(policy, latents, conds, batch_size=1)
        torch.testing.assert_close(one_by_one, found, rtol=1e-4, atol=1e-4)
        lora = policy.lora = LoRA(policy.network, LoRAConfig(rank=2), 0, policy.device)
        for weight in lora.parameters():
            weight.data += 1.0
        with lora.attached():
            assert torch.equal(features(policy, latents, conds, batch_size=4), found)
    assert not any(module._forward_hooks for module in policy.network.modules())
    assert (found[0] - found[1]).abs().max() > 1e-3
