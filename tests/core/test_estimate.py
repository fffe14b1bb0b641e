"""What autograd keeps, counted by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from seppo_core.adapters.lora import LoRAConfig
from seppo_core.training.config import SePPOConfig
from seppo_core.training.estimate import (
    META,
    fused_attention,
    kept_for_backward,
    meta_twin,
    on_meta,
)
from seppo_core.training.memory import remedies


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)

    def forward(self, x):
        return torch.sigmoid(self.second(torch.sigmoid(self.first(x))))


def leaf(*shape, device=META):
    return torch.empty(shape, device=device, requires_grad=True)


@pytest.mark.parametrize("device", [META, torch.device("cpu")])
def test_frozen_layers_keep_no_input_and_a_sigmoid_keeps_its_output(device):
    block = Block().to(device).requires_grad_(False)
    # two sigmoids of [3, 8] floats; the layers need their weights alone for the gradient of their input
    assert kept_for_backward(block, lambda: block(leaf(3, 8, device=device))) == 2 * 3 * 8 * 4


def test_a_trained_layer_keeps_its_input_too():
    block = Block().to(META)
    x = torch.empty(3, 8, device=META)
    # its two inputs and two outputs, of which the first output is the second input
    assert kept_for_backward(block, lambda: block(x)) == 3 * 3 * 8 * 4


def test_checkpointed_blocks_keep_one_block_at_a_time():
    blocks = [Block().to(META).requires_grad_(False) for _ in range(5)]
    network = nn.ModuleList(blocks)

    def call(forgetful):
        x = leaf(3, 8)
        for block in blocks:
            x = checkpoint(block, x, use_reentrant=False) if forgetful else block(x)
        return x

    one = 3 * 8 * 4
    assert kept_for_backward(network, lambda: call(False)) == 5 * 2 * one
    # the input of each block, then the two sigmoids of one
    assert kept_for_backward(network, lambda: call(True)) <= (5 + 2) * one


def test_attention_keeps_its_inputs_and_its_output_and_no_scores():
    q, k, v = leaf(1, 2, 100, 4), leaf(1, 2, 50, 4), leaf(1, 2, 50, 4)
    kept = kept_for_backward(nn.Identity(), lambda: F.scaled_dot_product_attention(q, k, v))
    assert kept == (100 + 50 + 50 + 100) * 2 * 4 * 4


def test_real_attention_of_somebody_else_goes_on_meanwhile():
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 5, 4, generator=draw) for _ in range(3))
    expected = F.scaled_dot_product_attention(q, k, v)
    with fused_attention():
        assert torch.equal(F.scaled_dot_product_attention(q, k, v), expected)
    assert torch.equal(F.scaled_dot_product_attention(q, k, v), expected)


def test_a_twin_has_shapes_and_no_data_and_the_original_stays():
    block = Block()
    block.register_buffer("steps", torch.arange(3))
    before = {name: value.clone() for name, value in block.state_dict().items()}
    twin = meta_twin(block)
    assert all(value.device == META for value in twin.state_dict().values())
    assert twin.steps.dtype == torch.int64
    assert twin.first.weight.shape == (8, 8)
    assert all(torch.equal(block.state_dict()[name], value) for name, value in before.items())


def test_a_batch_of_one_becomes_a_batch_of_many_and_the_rest_keeps_its_shape():
    inputs = {"x": torch.zeros(1, 4), "table": torch.zeros(7), "options": [torch.zeros(1), "cond"]}
    found = on_meta(inputs, 3)
    assert found["x"].shape == (3, 4)
    assert found["table"].shape == (7,)
    assert found["options"][0].shape == (3,)
    assert found["options"][1] == "cond"


@pytest.mark.parametrize("rank", [4, 16])
def test_what_would_lower_the_need_is_named_from_cheap_to_dear(rank):
    found = remedies(SePPOConfig(batch_size=2, lora=LoRAConfig(rank=rank)))
    assert found[0] == "turn gradient_checkpointing on"
    assert found[1].startswith("lower batch_size (now 2)")
    assert ("lower the rank (now 16)" in found) == (rank == 16)
    assert found[-2:] == ["let ComfyUI load the model in fp8", "close other programs"]
