"""SePPO Taste on a real host, with the model's own eyes and with a CLIP_VISION."""

from __future__ import annotations

import pytest
import torch
from graphs import node
from inprocess import GraphError

COUNT, SIZE = 12, 64


@pytest.fixture(scope="module")
def loaded(host, checkpoint):
    """MODEL, CLIP, VAE of the thin checkpoint."""
    return host.node("CheckpointLoaderSimple")().load_checkpoint(checkpoint)


def striped(seed: int) -> torch.Tensor:
    """A picture [1, 64, 64, 3] of stripes, unlike anything that random weights draw."""
    generator = torch.Generator().manual_seed(seed)
    stripes = (torch.arange(SIZE) // 4 % 2).float()
    colours = torch.rand(2, 3, generator=generator)
    picture = torch.lerp(colours[0], colours[1], stripes[:, None])
    return picture.expand(1, SIZE, SIZE, 3).contiguous()


@pytest.fixture(scope="module")
def dataset(host, loaded):
    data, clip, vae = host.core("data"), loaded[1], loaded[2]
    with torch.inference_mode():
        return data.in_memory(
            [
                data.Example(
                    vae.encode(striped(i))[0].clone(),
                    clip.encode_from_tokens_scheduled(clip.tokenize(f"stripes {i}")),
                    f"stripes {i}",
                )
                for i in range(COUNT)
            ]
        )


def judged(host, loaded, dataset, images, **inputs):
    nodes = {str(place): host.constant(value) for place, value in enumerate(loaded)}
    nodes |= {"data": host.constant(dataset), "images": host.constant(images)}
    values = {"model": ["0", 0], "clip": ["1", 0], "vae": ["2", 0], "dataset": ["data", 0]}
    values |= {"images": ["images", 0], "prompts": "a flag", "winners": 48, "batch_size": 4}
    for name, value in inputs.items():
        if name in ("prompts", "winners", "batch_size"):
            values[name] = value
        else:
            nodes[name], values[name] = host.constant(value), [name, 0]
    done = host.run_graph(nodes | {"9": node("SePPOTaste", **values)}, wanted=["9"])
    return done["9"]


@pytest.fixture(scope="module")
def drawn(host, loaded):
    """What the base draws, [4, 64, 64, 3]."""
    clip, vae = loaded[1:]
    encode = host.node("CLIPTextEncode")().encode
    positive, negative = (encode(clip, words)[0] for words in ("a flag", ""))
    empty = {"samples": torch.zeros(4, 4, 8, 8)}
    with torch.inference_mode():
        (latent,) = host.node("KSampler")().sample(
            loaded[0], 3, 4, 1.0, "euler", "normal", positive, negative, empty
        )
        return host.node("VAEDecode")().decode(vae, latent)[0].float().clamp(0, 1)


def test_pictures_like_the_winners_have_more_taste_than_what_the_base_draws(
    host, loaded, dataset, drawn
):
    like = torch.cat([striped(100 + i) for i in range(4)])
    text, taste = judged(host, loaded, dataset, like, images_b=drawn)
    _, of_base = judged(host, loaded, dataset, drawn)
    assert taste > 0.8 > 0.5 > of_base
    first, *rest = text.splitlines()
    assert first.startswith(f"taste {taste:.2f} [")
    assert any(line.startswith("stayed itself") for line in rest)
    assert any(line.startswith("diversity") for line in rest)


def test_the_host_is_as_it_was_and_the_same_is_said_again(host, loaded, dataset, drawn):
    assert judged(host, loaded, dataset, drawn) == judged(host, loaded, dataset, drawn)
    network = loaded[0].model.diffusion_model
    assert not any(module._forward_hooks for module in network.modules())


def test_a_clip_vision_can_be_the_eyes(host, loaded, dataset, drawn):
    class Eyes:
        """Mean colour differences of neighbours, as a vision tower gives an embedding."""

        def encode_image(self, image):
            down = (image[:, 1:] - image[:, :-1]).abs().mean((1, 2))
            across = (image[:, :, 1:] - image[:, :, :-1]).abs().mean((1, 2))
            return {"image_embeds": torch.cat([down, across], 1)}

    like = torch.cat([striped(100 + i) for i in range(4)])
    _, taste = judged(host, loaded, dataset, like, clip_vision=Eyes())
    _, of_base = judged(host, loaded, dataset, drawn, clip_vision=Eyes())
    assert taste > of_base


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"prompts": ""}, "write one prompt"),
        ({"prompts": "a\nb"}, "4 pictures but 2 prompts"),
        ({"images_b": torch.zeros(3, 64, 64, 3)}, "images has 4 pictures and images_b 3"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_drawn(
    host, loaded, dataset, drawn, monkeypatch, inputs, message
):
    denoiser = host.core("denoisers.comfy").ComfyDenoiser
    monkeypatch.setattr(denoiser, "session", lambda self, compute: pytest.fail("it began"))
    with pytest.raises(GraphError, match=message):
        judged(host, loaded, dataset, drawn, **inputs)


def test_too_few_winners_are_named_before_anything_is_drawn(
    host, loaded, dataset, drawn, monkeypatch
):
    denoiser = host.core("denoisers.comfy").ComfyDenoiser
    monkeypatch.setattr(denoiser, "session", lambda self, compute: pytest.fail("it began"))
    few = host.core("data").in_memory(dataset.examples[:4])
    with pytest.raises(GraphError, match="4 different captions; a taste is learned from 10"):
        judged(host, loaded, few, drawn)
