import torch

from seppo_core.identity import digest_tensors, tensor_bytes


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "small": torch.randn(3, 4, generator=generator),
        "large": torch.randn(512, 512, generator=generator),
    }


def test_equal_weights_have_equal_digests_in_any_order():
    forwards = digest_tensors(weights().items())
    backwards = digest_tensors(reversed(weights().items()))
    assert forwards == backwards
    assert len(forwards) == 64


def test_name_shape_dtype_and_every_small_value_enter_the_digest():
    zero = torch.zeros(3, 4)
    changed = zero.clone()
    changed[2, 3] = 1e-30
    digests = {
        digest_tensors(items)
        for items in (
            [("a", zero)],
            [("b", zero)],
            [("a", zero.reshape(4, 3))],
            [("a", zero.to(torch.int32))],
            [("a", changed)],
            [("a", zero), ("b", zero)],
            [],
        )
    }
    assert len(digests) == 7


def test_a_large_tensor_is_read_in_every_column():
    # 262144 float32: keep 16384, stride ceil(16) | 1 = 17, so element 17 * 31 = row 1, column 15.
    before, changed = weights(), weights()
    changed["large"][1, 15] += 1
    assert digest_tensors(before.items()) != digest_tensors(changed.items())
    for column in (0, 255, 511):
        changed = weights()
        changed["large"][:, column] += 1
        assert digest_tensors(before.items()) != digest_tensors(changed.items())


def test_any_storage_can_be_hashed():
    for dtype in (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8, torch.bool):
        tensor = torch.ones(2, 2).to(dtype)
        assert len(tensor_bytes(tensor)) == 4 * tensor.element_size()
    assert tensor_bytes(torch.zeros(0, 3)) == b""
    assert tensor_bytes(torch.arange(6).reshape(2, 3).T) == tensor_bytes(
        torch.tensor([0, 3, 1, 4, 2, 5])
    )
    with torch.inference_mode():
        inference = torch.ones(2)
    assert tensor_bytes(inference) == tensor_bytes(torch.ones(2))
