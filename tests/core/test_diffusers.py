"""diffusers networks behind the protocol, against the library's own schedules and pipelines."""

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seppo_core import SePPOConfig, train
from seppo_core.adapters.lora import LoRA, LoRAConfig
from seppo_core.data import EncodedDataset, Example, in_memory
from seppo_core.denoisers import ComputeConfig, autograd
from seppo_core.denoisers.diffusers import DiffusersDenoiser
from seppo_core.denoisers.guides import Guide
from seppo_core.errors import ConfigError, DatasetError, UnsupportedModelError
from seppo_core.method.objectives import LossConfig, mean_square
from seppo_core.method.references import ReferenceConfig
from seppo_core.randomness import normal
from seppo_core.training import estimate
from seppo_core.training.config import RunConfig
from seppo_core.training.optim import OptimizerConfig
from seppo_core.training.trainer import check_policy

# The library takes seconds to import: only tests that run wait for it.
pytestmark = pytest.mark.skipif(find_spec("diffusers") is None, reason="needs diffusers")

FP32 = ComputeConfig(precision="fp32")


def ddpm(**settings):
    from diffusers import DDPMScheduler

    return DDPMScheduler(**settings)


def flow_match():
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def unet(seed=0):
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=12,
            attention_head_dim=4,
            norm_num_groups=4,
        ).requires_grad_(False)


def transformer():
    from diffusers import SD3Transformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            caption_projection_dim=16,
            pooled_projection_dim=10,
            pos_embed_max_size=8,
        ).requires_grad_(False)


def make(kind, **settings):
    if kind == "flow":
        return DiffusersDenoiser(transformer(), flow_match(), **settings)
    return DiffusersDenoiser(unet(), ddpm(prediction_type=kind), **settings)


def cond(index):
    return {"embeds": normal((5, 12), "embeds", index), "pooled": normal((10,), "pooled", index)}


def text(kind, index):
    return cond(index) if kind == "flow" else {"embeds": cond(index)["embeds"]}


def winners(kind, count=3):
    return in_memory(
        [Example(normal((4, 8, 8), "w", i), text(kind, i), f"winner {i}") for i in range(count)]
    )


KINDS = ["epsilon", "v_prediction", "flow"]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_those_of_the_librarys_own_noising_and_target(kind):
    policy = make(kind)
    latents, noise = normal((3, 4, 8, 8), "x"), normal((3, 4, 8, 8), "n")
    with policy.session(FP32):
        levels = policy.levels(torch.tensor([0.1, 0.5, 0.9999]))
        assert levels.tolist() == [100, 500, 999]
        prepared = policy.prepare([text(kind, i) for i in range(3)], (4, 8, 8))
        found = mean_square(policy.residuals(latents, noise, levels, prepared))
    scheduler = policy.scheduler
    if kind == "flow":
        timesteps = scheduler.timesteps.flip(0)[levels]
        noisy = scheduler.scale_noise(latents, timesteps, noise)
        target = noise - latents
        raw = policy.network(
            noisy,
            encoder_hidden_states=prepared["embeds"],
            pooled_projections=prepared["pooled"],
            timestep=timesteps,
        ).sample
    else:
        noisy = scheduler.add_noise(latents, noise, levels)
        target = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, levels)
        raw = policy.network(noisy, levels, prepared["embeds"]).sample
    expected = ((raw - target) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize(
    ("sampler", "solver"), [("ddim", "DDIMScheduler"), ("dpmpp_2m", "DPMSolverMultistepScheduler")]
)
def test_samples_equal_those_of_the_librarys_pipeline(guidance_scale, sampler, solver):
    import diffusers

    negative = text("epsilon", 9)
    schedule = ddpm(steps_offset=1)  # the pipeline insists on this offset
    policy = DiffusersDenoiser(unet(), schedule, negative=negative)
    scheduler = getattr(diffusers, solver).from_config(policy.scheduler.config, clip_sample=False)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=policy.network, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.vae_scale_factor = 8
    pipeline.set_progress_bar_config(disable=True)
    noise = normal((2, 4, 8, 8), "start")
    conds = [text("epsilon", 0), text("epsilon", 1)]
    expected = pipeline(
        prompt_embeds=torch.stack([c["embeds"] for c in conds]),
        negative_prompt_embeds=torch.stack([negative["embeds"]] * 2),
        latents=noise,
        num_inference_steps=6,
        guidance_scale=guidance_scale,
        output_type="latent",
        height=64,
        width=64,
    ).images
    sampling = ReferenceConfig(sampler=sampler, sampling_steps=6, guidance_scale=guidance_scale)
    with policy.session(FP32):
        found = policy.sample(conds, noise, sampling, seed=0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("extrapolation", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_samples_drawn_away_from_the_base_are_those_of_two_networks_combined_by_hand(
    kind, extrapolation
):
    policy, base = (make(kind, negative=text(kind, 9)) for _ in range(2))
    lora = policy.lora = LoRA(policy.network, LoRAConfig(rank=4), 0, policy.device)
    for weight in lora.parameters():
        weight.data = 0.3 * normal(tuple(weight.shape), "policy", weight.numel())
    sampler = "euler" if kind == "flow" else "ddim"
    sampling = ReferenceConfig(
        sampler=sampler, scheduler="normal", sampling_steps=4, guidance_scale=3.0
    )
    conds, noise = [text(kind, 0), text(kind, 1)], normal((2, 4, 8, 8), "start")
    guide = Guide(extrapolation=extrapolation)
    with policy.session(FP32), base.session(FP32), lora.attached(), torch.no_grad():
        found = policy.sample(conds, noise, sampling, seed=0, guide=guide)

        def predict(x, timestep, cond):
            """`x` and `cond` hold the negatives first, as without a guide."""
            x, cond = x.chunk(2)[1], {name: value.chunk(2) for name, value in cond.items()}
            negative, positive = ({name: parts[i] for name, parts in cond.items()} for i in (0, 1))
            timestep = timestep[: len(x)]
            weak = original(x, timestep, positive)
            toward = weak + extrapolation * (policy_predicts(x, timestep, positive) - weak)
            return torch.cat([original(x, timestep, negative), toward])

        original, policy_predicts, base.predict = base.predict, policy.predict, predict
        expected = base.sample(conds, noise, sampling, seed=0)
        usual = policy.sample(conds, noise, sampling, seed=0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - usual).abs().max() > 1e-2


def test_noise_levels_that_round_to_one_timestep_are_drawn_all_the_same():
    """Karras spacing repeats the first timestep where the schedule ends in very much noise."""
    schedule = ddpm(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    policy = DiffusersDenoiser(unet(), schedule)
    sampling = ReferenceConfig(sampler="dpmpp_2m", scheduler="karras", sampling_steps=6)
    solver = policy._make_solver(sampling)
    solver.set_timesteps(6)
    assert len(set(solver.timesteps.tolist())) < 6
    with policy.session(FP32):
        found = policy.sample([text("epsilon", 0)], normal((1, 4, 8, 8), "start"), sampling, seed=0)
    assert found.isfinite().all()


def test_a_batch_of_two_captions_is_two_singles():
    for kind in KINDS:
        policy = make(kind)
        latents, noise = normal((2, 4, 8, 8), "x"), normal((2, 4, 8, 8), "n")
        conds = [text(kind, 0), text(kind, 1)]
        with policy.session(FP32):
            levels = policy.levels(torch.tensor([0.2, 0.8]))
            both = mean_square(
                policy.residuals(latents, noise, levels, policy.prepare(conds, (4, 8, 8)))
            )
            for i in range(2):
                one = slice(i, i + 1)
                single = mean_square(
                    policy.residuals(
                        latents[one], noise[one], levels[one], policy.prepare(conds[one], (4, 8, 8))
                    )
                )
                torch.testing.assert_close(single, both[one], rtol=1e-5, atol=1e-6)


def test_an_ancestral_sampler_takes_its_noise_from_the_seed():
    policy = make("epsilon")
    sampling = ReferenceConfig(sampler="euler_ancestral", sampling_steps=4)
    noise, conds = normal((1, 4, 8, 8), "start"), [text("epsilon", 0)]
    with policy.session(FP32):
        first = policy.sample(conds, noise, sampling, seed=1)
        torch.manual_seed(77)
        again = policy.sample(conds, noise, sampling, seed=1)
        other = policy.sample(conds, noise, sampling, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler"])
def test_every_model_trains_with_drawn_samples_and_equal_start(kind, sampler):
    policy = make(kind)
    before = {k: v.clone() for k, v in policy.network.state_dict().items()}
    config = SePPOConfig(
        steps=3,
        batch_size=2,
        references=ReferenceConfig(sampler=sampler, sampling_steps=3),
        lora=LoRAConfig(rank=2, modules="all"),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        run=RunConfig(preview_every=1),
    )
    reports = list(train(policy, winners(kind), config))
    assert (reports[0].winner_margin, reports[0].flip_rate) == (0.0, 1.0)
    assert all(r.grad_norm > 0 and r.preview.shape == (1, 4, 8, 8) for r in reports)
    after = policy.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_nothing_but_memory(kind):
    config = SePPOConfig(
        steps=2,
        references=ReferenceConfig(sampling_steps=2),
        lora=LoRAConfig(rank=2),
        optimizer=OptimizerConfig(learning_rate=1e-3),
    )
    states = []
    for gradient_checkpointing in (False, True):
        policy = make(kind)
        compute = replace(config.compute, gradient_checkpointing=gradient_checkpointing)
        list(train(policy, winners(kind), replace(config, compute=compute)))
        assert not policy.network.is_gradient_checkpointing
        states.append(policy.lora.state())
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-4, atol=1e-6)


def test_bf16_autocast_keeps_ties_exact_and_the_lora_in_float32():
    policy = make("epsilon")
    config = SePPOConfig(
        steps=2, references=ReferenceConfig(sampling_steps=2), compute=ComputeConfig("bf16")
    )
    first = next(train(policy, winners("epsilon"), config))
    assert (first.winner_margin, first.flip_rate) == (0.0, 1.0)
    assert {p.dtype for p in policy.lora.parameters()} == {torch.float32}


class Casts(TorchDispatchMode):
    """Counts casts of tensors that have one of these shapes."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes, self.count = shapes, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].shape in self.shapes:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_cast_once_a_session_with_the_result_of_casting_them_each_time(
    kind, monkeypatch
):
    def errors_in_bf16(policy):
        latents, noise = normal((2, 4, 8, 8), "x"), normal((2, 4, 8, 8), "n")
        with policy.session(ComputeConfig("bf16")):
            levels = policy.levels(torch.tensor([0.2, 0.8]))
            prepared = policy.prepare([text(kind, i) for i in range(2)], (4, 8, 8))
            shapes = {weight.shape for weight in policy.network.parameters() if weight.ndim > 1}
            with Casts(shapes) as casts:
                found = mean_square(policy.residuals(latents, noise, levels, prepared))
        return found, casts.count

    policy = make(kind)
    before = {name: (id(p), p.clone()) for name, p in policy.network.named_parameters()}
    once, none = errors_in_bf16(policy)
    assert none == 0
    for name, weight in policy.network.named_parameters():
        assert before[name][0] == id(weight)
        assert weight.dtype == torch.float32
        assert torch.equal(before[name][1], weight)
    monkeypatch.setattr(autograd, "cast_weights", lambda *given: nullcontext())
    each_time, some = errors_in_bf16(make(kind))
    assert some > 10
    assert torch.equal(once, each_time)


def test_a_scheduler_that_has_drawn_still_gives_the_levels_to_train_on():
    network = transformer()
    for flow, schedule in ((True, flow_match()), (False, ddpm())):
        uniform = torch.linspace(0, 0.999, 50)
        found = []
        for _ in range(2):
            policy = DiffusersDenoiser(network if flow else unet(), schedule)
            tables = (policy._timesteps, policy._alpha, policy._sigma)
            found.append((policy.levels(uniform), policy.context_fingerprint(guided=False), tables))
            schedule.set_timesteps(8)
        assert len(found[1][0].unique()) == 50
        assert torch.equal(found[0][0], found[1][0])
        assert found[0][1] == found[1][1]
        assert all(map(torch.equal, found[0][2], found[1][2]))


class ReadWhenAsked(Sequence):
    """A data set on disk; tells how many winners were read, and how many of them are still held."""

    def __init__(self, count, odd=-1):
        self.count, self.odd, self.read, self.held = count, odd, 0, []

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        self.read += 1
        embeds = normal((7 if place == self.odd else 5, 12), "embeds", place)
        self.held.append(weakref.ref(embeds))
        return Example(normal((4, 8, 8), "w", place), {"embeds": embeds}, f"winner {place}")


def test_checking_a_large_data_set_reads_some_of_it_and_keeps_none():
    examples = ReadWhenAsked(1000)
    dataset = EncodedDataset(examples, [(4, 8, 8)] * 1000, "many")
    check_policy(make("epsilon"), dataset, SePPOConfig())
    assert examples.read < 50
    assert not [reference for reference in examples.held if reference() is not None]


def test_a_conditioning_that_was_not_looked_at_is_named_when_it_comes():
    dataset = EncodedDataset(ReadWhenAsked(40, odd=30), [(4, 8, 8)] * 40, "odd")
    config = SePPOConfig(
        steps=10, batch_size=4, loss=LossConfig(objective="winner_error"), lora=LoRAConfig(rank=2)
    )
    with pytest.raises(DatasetError, match="is not shaped like that of another one of its batch"):
        list(train(make("epsilon"), dataset, config))


def test_sdxl_size_conditioning_follows_from_the_latents():
    config = {k: v for k, v in unet().config.items() if k != "_use_default_values"}
    config |= {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 10 + 6 * 4,
    }
    network = type(unet()).from_config(config).requires_grad_(False)
    policy = DiffusersDenoiser(network, ddpm())
    with policy.session(FP32):
        prepared = policy.prepare([cond(0)], (4, 8, 16))
        assert prepared["time_ids"].tolist() == [[64, 128, 0, 0, 64, 128]]
        x = normal((1, 4, 8, 16), "x")
        assert policy.residuals(x, x, torch.tensor([5]), prepared).isfinite().all()


def test_what_does_not_fit_is_named_before_training():
    policy = make("epsilon")
    bad = in_memory([Example(normal((3, 8, 8), "x"), text("epsilon", 0))])
    with pytest.raises(DatasetError, match=r"winner 0: latents \(3, 8, 8\).*\(4, height, width\)"):
        train(policy, bad, SePPOConfig())
    with pytest.raises(DatasetError, match=r"lacks \['pooled'\]"):
        train(make("flow"), winners("epsilon"), SePPOConfig())
    with pytest.raises(ConfigError, match="needs a negative"):
        guided = SePPOConfig(references=ReferenceConfig(guidance_scale=7.5))
        train(policy, winners("epsilon"), guided)
    with pytest.raises(ConfigError, match="references.sampler: unknown 'magic'"):
        train(policy, winners("epsilon"), SePPOConfig(references=ReferenceConfig(sampler="magic")))
    with pytest.raises(ConfigError, match="'ddim' does not fit a flow model"):
        train(
            make("flow"), winners("flow"), SePPOConfig(references=ReferenceConfig(sampler="ddim"))
        )
    with pytest.raises(UnsupportedModelError, match="Linear is not among"):
        DiffusersDenoiser(torch.nn.Linear(1, 1), ddpm())


def test_previews_that_are_guided_need_a_negative_even_where_training_draws_nothing():
    guided = ReferenceConfig(guidance_scale=4.0)
    sft = LossConfig(objective="winner_error")
    config = SePPOConfig(loss=sft, references=guided, run=RunConfig(preview_every=5))
    with pytest.raises(ConfigError, match="guidance_scale=4.0 needs a negative"):
        check_policy(make("epsilon"), winners("epsilon"), config)
    check_policy(make("epsilon", negative=text("epsilon", 9)), winners("epsilon"), config)
    check_policy(
        make("epsilon"), winners("epsilon"), replace(config, run=RunConfig(preview_every=0))
    )


def test_conditionings_that_cannot_share_a_batch_are_named_before_training():
    def with_third(cond):
        examples = [
            *winners("epsilon").examples[:2],
            Example(normal((4, 8, 8), "w", 2), cond, "fox"),
        ]
        return in_memory(examples)

    policy, config = make("epsilon"), SePPOConfig()
    longer = with_third({"embeds": normal((7, 12), "embeds", 2)})
    with pytest.raises(
        DatasetError, match=r"winner 2 \('fox'\).*\(7, 12\).*like.*winner 0.*\(5, 12\)"
    ):
        check_policy(policy, longer, config)
    more = with_third({**text("epsilon", 2), "time_ids": torch.zeros(6)})
    with pytest.raises(DatasetError, match=r"winner 2 \('fox'\).*time_ids"):
        check_policy(policy, more, config)
    with pytest.raises(
        DatasetError, match=r"winner 2 \('fox'\): its conditioning lacks \['embeds'\]"
    ):
        check_policy(policy, with_third({}), config)
    guided = SePPOConfig(references=ReferenceConfig(guidance_scale=4.0))
    short = make("epsilon", negative={"embeds": normal((3, 12), "negative")})
    with pytest.raises(DatasetError, match=r"the negative conditioning.*\(3, 12\)"):
        check_policy(short, winners("epsilon"), guided)


@pytest.mark.parametrize("wanted", [False, True])
def test_session_leaves_modes_and_checkpointing_of_every_block_as_they_were(wanted):
    policy = make("epsilon")
    network = policy.network.train()
    network.mid_block.eval()
    network.enable_gradient_checkpointing()
    network.up_blocks[0].gradient_checkpointing = False
    network.conv_in.weight.requires_grad_(True)
    names = ("training", "gradient_checkpointing", "_gradient_checkpointing_func")

    def state():
        modules = [[vars(module).get(name) for name in names] for module in network.modules()]
        return modules, [weight.requires_grad for weight in network.parameters()]

    before = state()
    with pytest.raises(KeyError), policy.session(ComputeConfig("fp32", wanted)):
        assert network.is_gradient_checkpointing == wanted
        assert not any(module.training for module in network.modules())
        assert not any(weight.requires_grad for weight in network.parameters())
        raise KeyError
    assert state() == before


def test_session_trains_where_the_caller_has_gradients_off():
    config = SePPOConfig(
        steps=2,
        loss=LossConfig(beta=10.0),
        references=ReferenceConfig(sampling_steps=2),
        lora=LoRAConfig(rank=2),
    )
    expected = make("epsilon")
    norms = [[report.grad_norm for report in train(expected, winners("epsilon"), config)]]
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            policy = make("epsilon")
            norms.append([report.grad_norm for report in train(policy, winners("epsilon"), config)])
            assert not torch.is_grad_enabled()
    assert norms[0][0] > 0
    assert norms == [norms[0]] * 3


def test_identity_names_the_weights():
    assert make("epsilon").base_fingerprint() == make("epsilon").base_fingerprint()
    other = DiffusersDenoiser(unet(1), ddpm())
    assert other.base_fingerprint() != make("epsilon").base_fingerprint()


def test_conditions_name_the_schedule_the_latent_scale_and_where_guided_the_negative():
    plain = make("epsilon").context_fingerprint(guided=False)
    assert make("epsilon").context_fingerprint(guided=False) == plain
    other = [
        make("v_prediction").context_fingerprint(guided=False),
        make("flow").context_fingerprint(guided=False),
        make("epsilon", latent_scale=0.18215).context_fingerprint(guided=False),
        make("epsilon", latent_shift=0.1).context_fingerprint(guided=False),
        DiffusersDenoiser(unet(), ddpm(beta_end=0.012)).context_fingerprint(guided=False),
    ]
    assert len({plain, *other}) == 6
    negatives = [make("epsilon", negative=text("epsilon", i)) for i in (1, 2, 2)]
    assert {policy.context_fingerprint(guided=False) for policy in negatives} == {plain}
    first, second, again = (policy.context_fingerprint(guided=True) for policy in negatives)
    assert first != second == again


def foreseen_and_kept(policy, dataset, config):
    """The estimate of a step, and what autograd keeps of winner and sample in a real one, with the LoRA's copies."""
    with policy.session(config.compute):
        foreseen = estimate.step_bytes(policy, estimate.calls_of(policy, dataset), config, 1)
        lora = LoRA(policy.network, config.lora, 0, policy.device)
        pair = torch.stack([dataset[i].latents for i in (0, 1)])
        prepared = policy.prepare([dataset[i].cond for i in (0, 1)], (4, 8, 8))
        levels = policy.levels(torch.full((2,), 0.5))
        with lora.attached():
            kept = estimate.kept_for_backward(
                policy.network,
                lambda: mean_square(
                    policy.residuals(pair, torch.zeros(pair.shape), levels, prepared)
                ),
            )
    weights = sum(p.numel() * p.element_size() for p in lora.parameters())
    return foreseen, kept + estimate.COPIES * weights


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_of_a_step_is_foreseen_without_allocating_it(kind, checkpointing, precision):
    """Real attention, noising and error keep a little more, and autocast leaves norms in float32."""
    compute = ComputeConfig(precision=precision, gradient_checkpointing=checkpointing)
    config = SePPOConfig(lora=LoRAConfig(rank=2), compute=compute)
    foreseen, kept = foreseen_and_kept(make(kind), winners(kind), config)
    assert foreseen == pytest.approx(kept, rel=0.1 if precision == "fp32" else 0.35)


def test_the_largest_winner_is_the_one_that_is_looked_at():
    sizes = [(4, 8, 8), (4, 16, 8), (4, 8, 8)]
    examples = [Example(normal(size, "w", i), text("epsilon", i)) for i, size in enumerate(sizes)]
    policy = make("epsilon")
    with policy.session(FP32):
        ((args, _),) = estimate.calls_of(policy, in_memory(examples))
    assert args[0].shape == (1, 4, 16, 8)
