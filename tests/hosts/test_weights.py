"""What a MODEL's weights may be and where they may lie: fp8, patched, moved off the device, on disk."""

from __future__ import annotations

import pytest
import torch
from denoising import flat_gradient, host_samples, make_case, same_bits, weights_of


def lora_file(case) -> dict:
    """A LoRA for two of the model's layers, in the host's keys."""
    with case.session():
        paths = case.lora().paths[:2]
    return {
        f"diffusion_model.{path.name}.lora_{part}.weight": torch.full(shape, 0.02)
        for path in paths
        for part, shape in (("down", path.down_shape), ("up", path.up_shape))
    }


def plain_model(host, kind: str):
    return host.thin_model(kind)


def fp8_model(host, kind: str):
    return host.thin_model(kind, "fp8")


def patched_model(host, kind: str):
    import comfy.sd

    model = host.thin_model(kind)
    file = lora_file(make_case(host, kind, model=model))
    return comfy.sd.load_lora_for_models(model, None, file, 1.0, 0)[0]


MODELS = {"plain": plain_model, "fp8": fp8_model, "patched": patched_model}


def run_config(case, directory, steps: int = 2):
    return case.config(
        steps=steps,
        loss={"beta": 8.0},
        references={"sampler": "euler", "sampling_steps": 2, "snapshot_every": 1},
        lora={"rank": 2},
        optimizer={"learning_rate": 1e-2, "warmup": 0.0},
        run={"directory": str(directory), "preview_every": 0},
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_run_trains_resumes_and_leaves_the_weights_as_they_were(host, name, tmp_path):
    import comfy.model_management as management

    train = host.core("training.trainer").train
    with torch.inference_mode():
        model = MODELS[name](host, "sd3")
    stored = model.model.diffusion_model.joint_blocks[0].x_block.mlp.fc1.weight.dtype
    assert (stored == torch.float8_e4m3fn) == (name == "fp8")
    management.unload_all_models()  # loaded, patches are in the weights
    before = weights_of(model)

    whole = make_case(host, "sd3", model=model)
    config = run_config(whole, tmp_path / "whole")
    first, second = train(whole.denoiser, whole.dataset(), config)
    assert first.loss == pytest.approx(0.6931472, abs=1e-6)  # a tie: log 2
    assert (first.winner_margin, first.flip_rate) == (0.0, 1.0)
    assert first.grad_norm > 0 and second.grad_norm > 0
    assert second.winner_margin != 0 and second.loss != first.loss
    assert max(up.abs().max() for _, up in whole.denoiser.lora.policy.values()) > 1e-3

    stopped = make_case(host, "sd3", model=model)
    config = run_config(stopped, tmp_path / "stopped")
    steps = train(stopped.denoiser, stopped.dataset(), config)
    assert next(steps).loss == first.loss
    steps.close()
    again = make_case(host, "sd3", model=model)
    (resumed,) = train(again.denoiser, again.dataset(), config)
    assert (resumed.step, resumed.loss) == (2, second.loss)
    expected = whole.denoiser.lora.state()
    assert all(
        same_bits(expected[key], value) for key, value in again.denoiser.lora.state().items()
    )

    queued = make_case(host, "sd3", model=model)
    assert list(train(queued.denoiser, queued.dataset(), config)) == []
    assert all(
        same_bits(expected[key], value) for key, value in queued.denoiser.lora.state().items()
    )
    management.unload_all_models()
    after = weights_of(model)
    assert before.keys() == after.keys()
    assert all(same_bits(before[key], after[key]) for key in before)


def test_layers_that_a_draw_moves_off_the_device_hand_autograd_copies_until_they_are_back(
    host, monkeypatch
):
    """On a CPU nothing is moved, so a stand-in for the host's sampler moves one layer as it would."""
    import comfy.sample

    case = make_case(host, "sd3")
    network = case.denoiser.network
    layer = network.context_embedder
    draw = comfy.sample.sample
    copying = host.core("denoisers.autograd")._copied_for_autograd

    def copied():
        found = [
            m for m in network.modules() if copying in (getattr(m, "weight_function", []) or [])
        ]
        return [module is layer for module in found]

    def drawn(weight_after):
        def sample(*args, **kwargs):
            latents = draw(*args, **kwargs)
            layer.weight = weight_after
            return latents

        monkeypatch.setattr(comfy.sample, "sample", sample)
        case.denoiser.sample(case.conds, case.noise, case.sampling(sampling_steps=1), 5)
        layer.weight = weight

    with case.trained(0.1):
        weight = layer.weight
        assert copied() == []
        drawn(torch.nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False))
        assert copied() == [True]
        drawn(weight)
        assert copied() == []
        drawn(torch.nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False))
    assert copied() == []


def test_weights_that_a_draw_puts_back_from_inference_mode_train(host, monkeypatch):
    """Making room, the host unpatches layers; their originals were kept when a node first loaded the model."""
    import comfy.sample

    with torch.inference_mode():
        case = make_case(host, "sd3", model=patched_model(host, "sd3"))
        host_samples(case.denoiser.model, case.conds[0], 1, case.latents[:1])
    draw = comfy.sample.sample

    def sample(patcher, *args, **kwargs):
        latents = draw(patcher, *args, **kwargs)
        patcher.partially_unload(patcher.offload_device, patcher.model_size())
        return latents

    monkeypatch.setattr(comfy.sample, "sample", sample)
    with case.trained(0.02) as lora:
        before = case.errors().detach()
        case.denoiser.sample(case.conds, case.noise, case.sampling(sampling_steps=1), 5)
        assert case.denoiser._patcher.model.model_lowvram
        after = case.errors()
        after.sum().backward()
        assert flat_gradient(lora).norm() > 0
    torch.testing.assert_close(after.detach(), before, rtol=1e-3, atol=0)  # patched in fp16


def streamed(host, model, monkeypatch):
    """The MODEL as a host with dynamic VRAM hands it out, in the one answer that a CPU host cannot give."""
    if host.version < (0, 33, 0):
        pytest.skip("0.3.64 streams no weights from disk")
    monkeypatch.setattr(model, "is_dynamic", lambda: True)
    return model


def test_a_model_streamed_from_disk_trains_on_a_twin_whose_weights_stay(host, monkeypatch):
    model = host.thin_model("sd3")
    with make_case(host, "sd3", model=model).session():
        pass
    plain = make_case(host, "sd3", model=host.thin_model("sd3"))
    with plain.trained() as lora:
        expected = plain.errors()
        expected.sum().backward()
        gradients = [weight.grad for weight in lora.parameters()]

    case = make_case(host, "sd3", model=streamed(host, model, monkeypatch))
    network = case.denoiser.network
    assert network is not model.model.diffusion_model
    with case.trained() as lora:
        assert not case.denoiser._patcher.is_dynamic()
        found = case.errors()
        found.sum().backward()
    assert same_bits(found.detach(), expected.detach())
    assert all(map(torch.equal, [weight.grad for weight in lora.parameters()], gradients))
    assert case.denoiser.network is network  # one twin, loaded once


def test_a_streamed_model_that_cannot_be_loaded_whole_is_refused(host, monkeypatch):
    model = streamed(host, host.thin_model("sd3"), monkeypatch)
    model.cached_patcher_init = None
    case = make_case(host, "sd3", model=model)
    error = host.core("errors").UnsupportedModelError
    with pytest.raises(error, match="streamed from disk.*host's own loader"):
        host.core("training.trainer").train(case.denoiser, case.dataset(), case.config())


def test_drawing_samples_shows_no_progress_bar_of_its_own(host, capfd):
    """The host's own sampler node shows one, on the page and in the log; ours would hide the run's."""

    def shown() -> tuple[int, bool]:
        return len([event for event, _ in host.messages if event == "progress"]), "it/s" in (
            capfd.readouterr().err
        )

    case = make_case(host, "sd3")
    host.messages.clear()
    host_samples(case.denoiser.model, case.conds[0], 1, case.latents[:1])
    assert shown() == (2, True)
    host.messages.clear()
    with case.session():
        case.denoiser.sample(case.conds, case.noise, case.sampling(), 5)
    assert shown() == (0, False)
