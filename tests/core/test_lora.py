"""Low-rank paths beside frozen layers, and the switch between weight slots."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from seppo_core.adapters.lora import LoRA, LoRAConfig
from seppo_core.errors import CheckpointError, UnsupportedModelError
from seppo_core.randomness import normal

CPU = torch.device("cpu")


def network():
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(3, 4, 3, padding=1, stride=2))
    net.add_module("depthwise", nn.Conv2d(4, 4, 3, padding=1, groups=4))
    net.add_module("flat", nn.Flatten())
    net.add_module("attn_out", nn.Linear(16, 5))
    net.add_module("mlp", nn.Linear(5, 2))
    for name, parameter in net.named_parameters():
        parameter.data = normal(tuple(parameter.shape), "net", name)
    return net.requires_grad_(False)


def randomised(lora, seed=0):
    state = {k: normal(tuple(v.shape), "w", seed, k) for k, v in lora.state().items()}
    lora.load(state)
    return state


def merged(net, state, scale):
    """The same network with W + scale * up @ down written into its weights."""
    copy = network()
    for name, module in copy.named_modules():
        if f"{name}.down" in state:
            down, up = state[f"{name}.down"], state[f"{name}.up"]
            delta = (up.flatten(1) @ down.flatten(1)).reshape(module.weight.shape)
            module.weight.data += scale * delta
    return copy


def test_a_path_equals_the_merged_weight_for_linear_and_convolution():
    net, x = network(), normal((2, 3, 4, 4), "x")
    lora = LoRA(net, LoRAConfig(rank=2, alpha=6.0, modules="all"), 0, CPU)
    state = randomised(lora)
    assert {name for name in lora.policy} == {"conv", "attn_out", "mlp"}  # grouped: no path
    with lora.attached():
        torch.testing.assert_close(net(x), merged(net, state, 3.0)(x), rtol=1e-5, atol=1e-5)


def test_the_initial_policy_is_the_base_to_the_bit():
    net, x = network(), normal((2, 3, 4, 4), "x")
    before = net(x)
    lora = LoRA(net, LoRAConfig(rank=2, modules="all"), 0, CPU)
    with lora.attached():
        assert torch.equal(net(x), before)


def test_switching_slots_switches_the_network_and_copies_no_base_weight():
    net, x = network(), normal((2, 3, 4, 4), "x")
    base, addresses = net(x), [p.data_ptr() for p in net.parameters()]
    lora = LoRA(net, LoRAConfig(rank=2), 0, CPU)
    first = randomised(lora, 1)
    slot = lora.slot(first)
    second = randomised(lora, 2)
    with lora.attached():
        policy = net(x)
        with lora.using(slot):
            torch.testing.assert_close(net(x), merged(net, first, 1.0)(x), rtol=1e-5, atol=1e-5)
            with lora.using(None):
                assert torch.equal(net(x), base)
        assert torch.equal(net(x), policy)
        torch.testing.assert_close(policy, merged(net, second, 1.0)(x), rtol=1e-5, atol=1e-5)
    assert [p.data_ptr() for p in net.parameters()] == addresses


def test_a_slot_with_the_policys_values_gives_the_same_bits():
    net, x = network(), normal((2, 3, 4, 4), "x")
    lora = LoRA(net, LoRAConfig(rank=2, modules="all"), 0, CPU)
    slot = lora.slot(randomised(lora))
    with lora.attached():
        policy = net(x)
        with torch.no_grad(), lora.using(slot):
            assert torch.equal(net(x), policy)


def test_detached_the_network_is_as_before_also_after_an_error():
    net, x = network(), normal((2, 3, 4, 4), "x")
    before = net(x)
    lora = LoRA(net, LoRAConfig(rank=2), 0, CPU)
    randomised(lora)
    with pytest.raises(RuntimeError, match="stop"), lora.attached():
        raise RuntimeError("stop")
    assert torch.equal(net(x), before)
    assert not any(module._forward_hooks for module in net.modules())


def test_half_precision_layers_take_float32_paths_and_their_gradients():
    net = nn.Sequential(nn.Linear(4, 4)).to(torch.bfloat16).requires_grad_(False)
    lora = LoRA(net, LoRAConfig(rank=2), 0, CPU)
    randomised(lora)
    with lora.attached():
        output = net(normal((3, 4), "x").to(torch.bfloat16))
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.abs().sum() > 0 for p in lora.parameters())


def test_linear_layers_that_are_not_torchs_own_get_a_path():
    class Quantised(nn.Module):
        in_features, out_features = 4, 3

        def __init__(self):
            super().__init__()
            self.register_buffer("packed", normal((3, 4), "q"))

        def forward(self, x):
            return F.linear(x, self.packed)

    net = nn.Sequential(Quantised())
    lora = LoRA(net, LoRAConfig(rank=1), 0, CPU)
    state = randomised(lora)
    x = normal((2, 4), "x")
    with lora.attached():
        expected = x @ (net[0].packed + state["0.up"] @ state["0.down"]).T
        torch.testing.assert_close(net(x), expected)


def test_modules_and_pattern_choose_the_layers():
    net = network()

    def chosen(**settings):
        return set(LoRA(net, LoRAConfig(rank=1, **settings), 0, CPU).policy)

    assert chosen(modules="linear") == {"attn_out", "mlp"}
    assert chosen(modules="attention") == {"attn_out"}
    assert chosen(modules="all", pattern="conv|mlp") == {"conv", "mlp"}
    with pytest.raises(UnsupportedModelError, match="matches no layer of Sequential"):
        chosen(pattern="nothing")


def test_initial_weights_depend_on_seed_and_layer_alone():
    def start(seed):
        return LoRA(network(), LoRAConfig(rank=2), seed, CPU).state()

    first = start(3)
    torch.manual_seed(99)
    assert all(torch.equal(first[k], v) for k, v in start(3).items())
    assert not torch.equal(first["mlp.down"], start(4)["mlp.down"])
    bound = 16**-0.5
    assert first["attn_out.down"].abs().max() <= bound
    assert first["attn_out.down"].abs().max() > 0.8 * bound


def test_weights_of_another_rank_are_refused_by_name():
    lora = LoRA(network(), LoRAConfig(rank=2), 0, CPU)
    other = LoRA(network(), LoRAConfig(rank=3), 0, CPU).state()
    with pytest.raises(
        CheckpointError, match=r"attn_out.down should be \(2, 16\), found \(3, 16\)"
    ):
        lora.load(other)
    extra = lora.state() | {"gone.down": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="first gone.down"):
        lora.load(extra)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_policy_and_reference_of_the_same_weights_agree_to_the_bit_in_any_layout(dtype):
    """Parameters require gradients, a snapshot's weights do not; channels come last without being laid out so."""
    net = nn.Sequential(nn.Linear(8, 8)).requires_grad_(False).to(dtype)
    lora = LoRA(net, LoRAConfig(rank=2), 0, CPU)
    randomised(lora)
    x = normal((2, 8, 4, 4), "x").to(dtype).movedim(1, -1)
    with lora.attached():
        policy = net(x).detach()
        with torch.no_grad(), lora.using(lora.slot(lora.state())):
            reference = net(x)
    assert torch.equal(policy, reference)


class Casts(TorchDispatchMode):
    """Counts copies to another dtype."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += operator is torch.ops.aten._to_copy.default
        return operator(*args, **(kwargs or {}))


def test_a_snapshots_weights_are_cast_once_and_the_policys_each_time_they_learn():
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).requires_grad_(False).bfloat16()
    lora = LoRA(net, LoRAConfig(rank=2), 0, CPU)
    randomised(lora)
    x = normal((2, 8), "x").bfloat16()
    slot = lora.slot(lora.state())
    with lora.attached(), torch.no_grad(), lora.using(slot):
        with Casts() as first:
            net(x)
        with Casts() as again:
            net(x)
    assert (first.count, again.count) == (4, 0)
    assert all(weight.dtype == torch.float32 for pair in slot.values() for weight in pair)
    with lora.attached():
        for _ in range(2):
            net(x).sum().backward()  # a kept cast would lead into a graph already freed
    assert all(parameter.grad.any() for parameter in lora.parameters())


def test_a_snapshots_weights_come_once_to_the_device_that_asks_and_stay_where_they_were():
    lora = LoRA(network(), LoRAConfig(rank=2), 0, CPU)
    snapshot = lora.state()
    slot = lora.slot(snapshot)
    x = torch.empty(1, 16, device="meta", dtype=torch.bfloat16)
    (path,) = [path for path in lora.paths if path.name == "attn_out"]
    pair = slot.of(path, x)
    assert {(weight.device.type, weight.dtype) for weight in pair} == {("meta", x.dtype)}
    assert slot.of(path, x) is pair
    down, _ = slot.of(path, torch.empty(1, 16))
    assert torch.equal(down, snapshot["attn_out.down"].t())
    assert down.data_ptr() == snapshot["attn_out.down"].data_ptr()


class Turned(nn.Linear):
    def forward(self, x):
        return super().forward(x).transpose(0, 1).contiguous().transpose(0, 1)


class Cut(nn.Linear):
    """Its rows lie in wider ones, as those of hosts that pad to what their kernels take."""

    def forward(self, x):
        return F.pad(super().forward(x), (0, 5))[..., : self.out_features]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [nn.Linear, Turned, Cut])
def test_policy_and_reference_agree_to_the_bit_however_a_layer_lays_out_its_output(kind, dtype):
    net = nn.Sequential(kind(64, 96), kind(96, 48)).requires_grad_(False)
    lora = LoRA(net, LoRAConfig(rank=2, alpha=1), 0, CPU)
    state = randomised(lora)
    x = normal((2, 5, 64), "x")
    first, second = (
        layer.weight + state[f"{i}.up"] @ state[f"{i}.down"] / 2 for i, layer in enumerate(net)
    )
    merged = F.linear(F.linear(x, first, net[0].bias), second, net[1].bias)
    net.to(dtype)
    with lora.attached():
        policy = net(x.to(dtype)).detach()
        with torch.no_grad(), lora.using(lora.slot(lora.state())):
            reference = net(x.to(dtype))
    assert torch.equal(policy, reference)
    if dtype == torch.float32:
        torch.testing.assert_close(reference, merged, rtol=1e-4, atol=1e-3)


def test_an_output_that_another_hook_kept_stays_as_it_was():
    net = nn.Sequential(nn.Linear(4, 3)).requires_grad_(False)
    kept = []
    net[0].register_forward_hook(lambda module, args, output: kept.append(output))
    lora = LoRA(net, LoRAConfig(rank=2), 0, CPU)
    randomised(lora)
    x = normal((2, 4), "x")
    with torch.no_grad(), lora.attached():
        net(x)
    assert torch.equal(kept[0], F.linear(x, net[0].weight, net[0].bias))
