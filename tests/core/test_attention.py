"""Which attention training forwards go by, judged by its gradient."""

import gc
import logging
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from seppo_core.denoisers.attention import WithGradient, has_gradient
from seppo_core.randomness import normal


def plain(q, k, v, heads, mask=None, **settings):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def slow(q, k, v, heads, mask=None, **settings):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return scores.softmax(-1) @ v


def deaf(q, k, v, heads, mask=None, **settings):
    with torch.no_grad():
        return plain(q, k, v, heads, mask)


def half_deaf(q, k, v, heads, mask=None, **settings):
    return plain(q, k.detach(), v, heads, mask)


@torch.library.custom_op("seppo_test::attention", mutates_args=())
def unregistered(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return plain(q, k, v, 1)


def refusing(q, k, v, heads, mask=None, **settings):
    return unregistered(q, k, v)


def qkv(requires_grad=True):
    return [normal((1, 2, 5, 4), name).requires_grad_(requires_grad) for name in "qkv"]


@pytest.mark.parametrize(
    ("attention", "expected"),
    [(plain, True), (slow, True), (deaf, False), (half_deaf, False), (refusing, False)],
)
def test_an_attention_has_a_gradient_if_q_k_and_v_get_one(attention, expected):
    inputs = qkv()
    with torch.no_grad():
        assert has_gradient(attention, inputs, (1,), {}) == expected
    assert all(x.grad is None for x in inputs)


def test_an_attention_that_fails_when_judged_leaves_no_graph_behind():
    kept = []

    def failing(*args, **settings):
        out = slow(*args, **settings).softmax(-1)  # whose graph keeps its output
        kept.append(weakref.ref(out))
        raise MemoryError

    with pytest.raises(MemoryError):
        has_gradient(failing, qkv(), (1,), {})
    gc.collect()
    assert kept[0]() is None


@pytest.mark.parametrize("chosen", [deaf, half_deaf, refusing])
def test_the_hosts_kernel_without_gradient_is_replaced_with_a_word_once(chosen, caplog):
    attention = WithGradient(plain, None)
    q, k, v = qkv()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            attention(chosen, q, k, v, 1).sum().backward()
    assert all(x.grad.abs().max() > 0 for x in (q, k, v))
    assert [record.getMessage() for record in caplog.records] == [
        f"{chosen.__name__} has no gradient: training goes by another attention"
    ]


def test_the_hosts_kernel_stays_where_it_has_a_gradient(caplog):
    called = []

    def host(*args, **settings):
        called.append(1)
        return slow(*args, **settings)

    attention = WithGradient(plain, None)
    attention(host, *qkv(), 1)
    assert len(called) == 2  # judged once, then called
    attention(host, *qkv(), 1)
    assert len(called) == 3
    assert not caplog.records


def test_a_nodes_override_goes_around_the_best_attention_that_has_a_gradient():
    def doubled(attention, *args, **settings):
        return 2 * attention(*args, **settings)

    attention = WithGradient(plain, doubled)
    q, k, v = qkv()
    torch.testing.assert_close(attention(deaf, q, k, v, 1), 2 * plain(q, k, v, 1))
    torch.testing.assert_close(attention(slow, q, k, v, 1), 2 * plain(q, k, v, 1))


def test_a_nodes_override_without_gradient_gives_way_to_the_hosts_own():
    attention = WithGradient(plain, lambda host, *args, **settings: deaf(*args, **settings) + 1)
    q, k, v = qkv()
    torch.testing.assert_close(attention(slow, q, k, v, 1), slow(q, k, v, 1))


def test_policy_and_reference_go_by_the_same_kernel_whoever_comes_first():
    for first, second in ((True, False), (False, True)):
        attention, inputs = WithGradient(plain, None), qkv()
        found = []
        for learning in (first, second):
            with torch.set_grad_enabled(learning):
                found.append(attention(slow, *inputs, 1).detach())
        assert torch.equal(*found)


def test_judging_inside_a_checkpointed_block_leaves_its_recomputation_right():
    attention, (q, k, v) = WithGradient(plain, None), qkv()
    once = checkpoint(lambda q: attention(refusing, q, k, v, 1).sin(), q, use_reentrant=False)
    (found,) = torch.autograd.grad(once.sum(), q)
    (expected,) = torch.autograd.grad(plain(q, k, v, 1).sin().sum(), q)
    torch.testing.assert_close(found, expected)


def test_judging_draws_nothing_from_the_global_generators():
    def drawing(q, k, v, heads, **settings):
        return plain(q, k, v, heads) * torch.rand(())

    attention, inputs = WithGradient(plain, None), qkv()
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(attention(drawing, *inputs, 1).detach())
    assert torch.equal(*found)


def test_memory_that_runs_out_while_judging_says_nothing_about_the_gradient():
    def large(*args, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        has_gradient(large, qkv(), (1,), {})
