import threading

import pytest
import torch
from torch import nn

from seppo_core.denoisers import autograd
from seppo_core.errors import UnsupportedModelError


def seeded(*shape: int, seed: int = 0, **kwargs) -> torch.Tensor:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return tensor.to(**kwargs)


class Residual(nn.Module):
    """The pattern of Flux blocks: a residual added to the input in place, twice."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        for number, layer in enumerate((self.first, self.second)):
            layer.weight.data = seeded(6, 6, seed=seed + number) / 3
            layer.bias.data.zero_()

    def forward(self, x: torch.Tensor, options: dict | None = None) -> torch.Tensor:
        x += self.first(torch.sin(x))
        x *= 0.9
        x += self.second(torch.sin(x))
        if options is not None:
            x = x * options["gain"]
            options["gain"] = 100.0
        return x


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 6)
        self.enter.weight.data = seeded(6, 6, seed=9)
        self.blocks = nn.ModuleList(Residual(seed) for seed in (1, 3, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        for gain, block in enumerate(self.blocks, start=1):
            x = block(x, options={"gain": gain})
        return x


def gradient(stack: Stack, x: torch.Tensor, checkpointing: bool) -> torch.Tensor:
    stack.zero_grad()
    blocks = autograd.find_blocks(stack) if checkpointing else []
    with autograd.checkpointed(blocks), autograd.out_of_place():
        loss = stack(x).square().mean()
    loss.backward()
    return torch.cat([weight.grad.flatten() for weight in stack.parameters()])


def test_gradient_through_in_place_residuals_matches_finite_differences():
    stack, x = Stack().double(), seeded(4, 6).double()
    computed = gradient(stack, x, checkpointing=False)
    step, weight = 1e-6, stack.blocks[0].first.weight
    with torch.no_grad():
        losses = []
        for sign in (1, -1):
            weight[2, 3] += sign * step
            losses.append(stack(x).square().mean())
            weight[2, 3] -= sign * step
    place = sum(w.numel() for w in stack.enter.parameters()) + 2 * 6 + 3
    assert computed[place].item() == pytest.approx(
        ((losses[0] - losses[1]) / (2 * step)).item(), rel=1e-6
    )


def test_checkpointed_gradient_equals_the_plain_one_though_blocks_write_into_their_options():
    stack, x = Stack(), seeded(4, 6)
    plain = gradient(stack, x, checkpointing=False)
    torch.testing.assert_close(gradient(stack, x, checkpointing=True), plain, rtol=1e-5, atol=1e-6)


def test_without_the_mode_in_place_residuals_break_the_gradient_loudly(monkeypatch):
    from contextlib import nullcontext

    monkeypatch.setattr(autograd, "out_of_place", nullcontext)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient(Stack(), seeded(4, 6), checkpointing=False)
    with pytest.raises(UnsupportedModelError, match="input of Residual was changed in place"):
        gradient(Stack(), seeded(4, 6), checkpointing=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_arithmetic_out_of_place_has_the_same_bits_and_dtype(dtype):
    def arithmetic(a: torch.Tensor) -> torch.Tensor:
        a += seeded(5, 7, seed=1)
        a -= seeded(7, seed=2, dtype=dtype)
        a *= 1.7
        a /= seeded(5, 1, seed=3)
        return a

    expected = arithmetic(seeded(5, 7, dtype=dtype))
    with autograd.out_of_place():
        found = arithmetic(seeded(5, 7, dtype=dtype))
    assert found.dtype == dtype
    assert torch.equal(found, expected)


def test_augmented_assignment_leaves_the_old_tensor_alone():
    a = old = torch.ones(3)
    with autograd.out_of_place():
        a += 1
    assert a.tolist() == [2, 2, 2]
    assert old.tolist() == [1, 1, 1]


def test_statements_slices_and_counters_stay_in_place():
    a, counter = torch.zeros(4), torch.zeros(1, dtype=torch.int64)
    alias, same_counter = a, counter
    with autograd.out_of_place():
        a.add_(1)
        a[1:3] += 2
        counter += 5
    assert alias.tolist() == [1, 3, 3, 1]
    assert same_counter.tolist() == [5]


def test_out_argument_keeps_the_gradient():
    x = torch.tensor([0.5, 1.0], requires_grad=True)
    with autograd.out_of_place():
        scores = x * 2
        torch.exp(scores, out=scores)
        (scores * scores).sum().backward()
    torch.testing.assert_close(x.grad, 4 * torch.exp(4 * x.detach()))  # d/dx exp(2x)^2


def test_without_gradients_arithmetic_stays_in_place():
    a = alias = torch.ones(2)
    with torch.no_grad(), autograd.out_of_place():
        a += 1
    assert alias.tolist() == [2, 2]


def test_mode_is_left_after_an_error_and_enters_once_per_thread():
    with pytest.raises(KeyError), autograd.out_of_place():
        raise KeyError
    depths = []

    def nested() -> None:
        with autograd.out_of_place(), autograd.out_of_place():
            depths.append(torch._C._len_torch_function_stack())

    nested()
    thread = threading.Thread(target=nested)
    thread.start()
    thread.join()
    assert depths == [1, 1]
    assert torch._C._len_torch_function_stack() == 0


def test_blocks_are_what_repeats_not_single_layers_or_wrappers():
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into = nn.Linear(6, 2)
            self.stack = nn.ModuleList([Residual(1), Residual(3)])

    network = nn.Module()
    network.time = nn.Sequential(nn.Linear(2, 2), nn.SiLU())
    network.stages = nn.ModuleList([nn.Sequential(Residual(5), Wrapper()), nn.Linear(2, 2)])
    network.middle = nn.Sequential(Residual(7))
    resnet, wrapper = network.stages[0]
    assert autograd.find_blocks(network) == [resnet, *wrapper.stack, network.middle[0]]


def test_forwards_are_given_back_even_after_an_error():
    stack = Stack()
    own = stack.blocks[1].forward = lambda x, options=None: x
    with pytest.raises(KeyError), autograd.checkpointed(list(stack.blocks)):
        raise KeyError
    assert stack.blocks[1].forward is own
    assert ["forward" in block.__dict__ for block in stack.blocks] == [False, True, False]


def test_checkpointed_blocks_without_gradients_compute_once():
    stack, calls = Stack(), []
    stack.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    x = seeded(2, 6)
    with torch.no_grad(), autograd.checkpointed(list(stack.blocks)):
        inside = stack(x)
    assert len(calls) == 1
    assert torch.equal(inside, stack(x).detach())


def test_frozen_and_evaluating_give_flags_back():
    stack = Stack().train()
    stack.enter.weight.requires_grad_(False)
    stack.blocks[0].eval()
    flags = [weight.requires_grad for weight in stack.parameters()]
    modes = [module.training for module in stack.modules()]
    with autograd.frozen(stack), autograd.evaluating(stack):
        assert not any(weight.requires_grad for weight in stack.parameters())
        assert not any(module.training for module in stack.modules())
    assert [weight.requires_grad for weight in stack.parameters()] == flags
    assert [module.training for module in stack.modules()] == modes


class CastingLayer(nn.Module):
    """As hosts run offloaded layers: every weight is copied into the same buffer before its use."""

    buffer = torch.empty(6, 6)

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(seeded(6, 6, seed=seed), requires_grad=False)
        self.weight_function = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.buffer.copy_(self.weight)
        for function in self.weight_function:
            weight = function(weight)
        return torch.tanh(x @ weight)


def test_weights_cast_into_one_buffer_train_through_copies():
    network = nn.Sequential(CastingLayer(1), CastingLayer(2))
    x = seeded(3, 6).requires_grad_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        network(x).sum().backward()
    autograd.copy_casts(network, lambda layer: True)
    (found,) = torch.autograd.grad(network(x).sum(), x)
    first, second = (layer.weight for layer in network)
    (expected,) = torch.autograd.grad(torch.tanh(torch.tanh(x @ first) @ second).sum(), x)
    torch.testing.assert_close(found, expected)


def test_copies_follow_the_layers_that_are_cast():
    def patched(weight: torch.Tensor) -> torch.Tensor:
        return weight * 2

    network = nn.Sequential(CastingLayer(1), CastingLayer(2), nn.Tanh())
    network[0].weight_function = [patched]
    for away in ([0], [0, 1], [1], []):
        autograd.copy_casts(network, lambda layer, away=away: layer in [network[i] for i in away])
        copies = [len(layer.weight_function) for layer in network[:2]]
        assert copies == [1 + (0 in away), 0 + (1 in away)]
        assert network[0].weight_function[0] is patched


class Scaled(torch.Tensor):
    """A quantised weight of whole numbers and a scale, whose kernels know no gradient."""

    @staticmethod
    def __new__(cls, whole: torch.Tensor, scale: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(cls, whole.shape, dtype=torch.float32)

    def __init__(self, whole: torch.Tensor, scale: torch.Tensor) -> None:
        self.whole, self.scale = whole, scale

    def __tensor_flatten__(self):
        return ["whole", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner, context, size, stride):
        return Scaled(**inner)

    def dequantize(self) -> torch.Tensor:
        return self.whole * self.scale

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.detach.default, torch.ops.aten.t.default):
            return cls(func(args[0].whole), args[0].scale.clone())
        if func is torch.ops.aten.mm.default:  # the forward, with a bias, is an addmm
            raise RuntimeError("no gradient")
        return func(*(a.dequantize() if isinstance(a, cls) else a for a in args), **(kwargs or {}))


def scaled_linear() -> nn.Linear:
    layer = nn.Linear(4, 3)
    whole = seeded(3, 4).mul(9).round().to(torch.int8)
    layer.weight = nn.Parameter(Scaled(whole, torch.tensor(0.25)), requires_grad=False)
    return layer.requires_grad_(False)


class Carried(torch.Tensor):
    """A tensor class of somebody who lets nothing be detached or cloned."""

    def detach(self):
        return self

    clone = detach


def places(network: nn.Module) -> dict[str, torch.Tensor]:
    return {**network.state_dict(keep_vars=True), "table": network.table}


def looks(network: nn.Module) -> list[tuple]:
    """Of every tensor what a host could tell apart, but for being an inference tensor."""
    return [
        (type(t), isinstance(t, nn.Parameter), t.requires_grad, t.data_ptr(), t.shape, t.stride())
        for t in places(network).values()
        if not isinstance(t, Scaled)
    ]


def hosted_network() -> nn.Module:
    """As a host makes it: under inference mode, and a weight, a buffer and an attribute of every sort."""
    with torch.inference_mode():
        network = nn.Sequential(
            nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), scaled_linear()
        )
        network[2].weight = network[0].weight
        network.table = seeded(6, 4)[2:, ::2]
        network.register_buffer("kept", seeded(2).as_subclass(Carried))
        network.kept.kind = "Q4"
    network.register_buffer("own", seeded(2))
    return network


def test_inference_tensors_are_swapped_for_others_on_the_same_memory_and_swapped_back():
    network = hosted_network()
    before, weights = looks(network), places(network)
    inference = [name for name, tensor in weights.items() if tensor.is_inference()]
    assert set(weights) - set(inference) == {"own"}
    values = [w.dequantize() if isinstance(w, Scaled) else w for w in weights.values()]
    swap = autograd.InferenceTensors(network)
    swap.leave()
    assert not any(tensor.is_inference() for tensor in places(network).values())
    assert looks(network) == before
    assert network[2].weight is network[0].weight and network.kept.kind == "Q4"
    network[:3](torch.ones(3, 4)).sum().backward()
    network[1].weight = nn.Parameter(torch.full((4,), 2.0))  # as a host that moves weights
    swap.restore()
    again = places(network)
    assert [name for name, tensor in again.items() if tensor.is_inference()] == inference
    assert network[1].weight.tolist() == [2.0] * 4
    network[1].weight = weights["1.weight"]
    assert looks(network) == before
    assert network[2].weight is network[0].weight and network.own is weights["own"]
    values_after = [w.dequantize() if isinstance(w, Scaled) else w for w in again.values()]
    del values_after[list(again).index("1.weight")], values[list(again).index("1.weight")]
    assert all(map(torch.equal, values_after, values))


def test_a_host_can_rewrap_quantised_weights_only_when_they_are_swapped_back():
    network = hosted_network()
    memory = network[3].weight.whole.data_ptr()
    swap = autograd.InferenceTensors(network)
    swap.leave()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="version_counter"):
        nn.Parameter(network[3].weight, requires_grad=False)
    swap.restore()
    with torch.inference_mode():
        rewrapped = nn.Parameter(network[3].weight, requires_grad=False)
    assert rewrapped.whole.data_ptr() == memory
    swap.leave()
    with torch.inference_mode():
        autograd.remake_wrappers(network)
        nn.Parameter(network[3].weight, requires_grad=False)
    assert network[3].weight.is_inference() and not network[0].weight.is_inference()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_quantised_layer_whose_kernel_has_no_gradient_hands_on_the_dequantised_ones(
    checkpointing,
):
    layer, x = scaled_linear(), seeded(2, 5, 4, seed=1).requires_grad_()
    with pytest.raises(RuntimeError, match="no gradient"):
        layer(x).sum().backward()
    blocks = [layer] if checkpointing else []
    with autograd.checkpointed(blocks), autograd.out_of_place():
        found = layer(x)
    weights = seeded(2, 5, 3, seed=2)
    (gradient,) = torch.autograd.grad(found, x, weights)
    plain = torch.nn.functional.linear(x, layer.weight.dequantize(), layer.bias)
    (expected,) = torch.autograd.grad(plain, x, weights)
    torch.testing.assert_close(gradient, expected)
    with torch.no_grad():
        assert torch.equal(found, layer(x))
