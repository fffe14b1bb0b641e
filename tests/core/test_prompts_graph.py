"""Prompts from graphs in the API format. Each graph is written down; the answers are read off by eye."""

import json
import random
import tracemalloc
from typing import Any

import pytest

from seppo_core.data.generation import Generation, NoPromptError
from seppo_core.data.graphs import generation_of, texts

Graph = dict[str, dict[str, Any]]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def encode(text: Any) -> dict[str, Any]:
    return node("CLIPTextEncode", text=text, clip=["model", 1])


def plain(**more: dict[str, Any]) -> Graph:
    """The host's default graph: one sampler, one saved picture; `more` replaces or adds nodes."""
    graph = {
        "model": node("CheckpointLoaderSimple", ckpt_name="sd15.safetensors"),
        "good": encode("a red fox"),
        "bad": encode("blurry"),
        "empty": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "sampler": node(
            "KSampler",
            **{"seed": 7, "steps": 20, "cfg": 8.0, "sampler_name": "euler", "scheduler": "normal"},
            **{"model": ["model", 0], "positive": ["good", 0], "negative": ["bad", 0]},
            **{"latent_image": ["empty", 0], "denoise": 1.0},
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="ComfyUI"),
    }
    return graph | more


def prompt(graph: Graph, name: str = "ComfyUI_00001_.png") -> str:
    return generation_of(graph, name).prompt


def positive(**nodes: dict[str, Any]) -> str:
    """The prompt of the default graph whose sampler draws by node `good`, which `nodes` replaces."""
    return prompt(plain(**nodes))


def reason(graph: Any, name: str = "ComfyUI_00001_.png", **options: Any) -> str:
    with pytest.raises(NoPromptError) as caught:
        generation_of(graph, name, **options)
    return str(caught.value)


def test_default_graph_tells_all():
    assert generation_of(plain(), "ComfyUI_00001_.png") == Generation(
        *("a red fox", "blurry", 7, 20, 8.0, "euler", "normal", "sd15.safetensors")
    )


@pytest.mark.parametrize(
    "middle",
    [
        node("ConditioningSetArea", conditioning=["text", 0], width=64, height=64, x=0, y=0),
        node("ConditioningSetMask", conditioning=["text", 0], mask=["mask", 0]),
        node("ConditioningSetTimestepRange", conditioning=["text", 0], start=0.0, end=1.0),
        node("ControlNetApply", conditioning=["text", 0], control_net=["c", 0], image=["i", 0]),
        node("FluxGuidance", conditioning=["text", 0], guidance=3.5),
        node("unCLIPConditioning", conditioning=["text", 0], clip_vision_output=["v", 0]),
        node("ReferenceLatent", conditioning=["text", 0], latent=["empty", 0]),
        node("StyleModelApply", conditioning=["text", 0], style_model=["s", 0]),
        node("GLIGENTextBoxApply", conditioning_to=["text", 0], clip=["model", 1], text="a box"),
        node("Reroute", **{"": ["text", 0]}),
        node("SomebodysConditioningTweak", strength=2, thing=["text", 0]),
    ],
    ids=lambda value: value["class_type"],
)
def test_what_changes_a_conditioning_is_passed_through(middle):
    assert positive(good=middle, text=encode("a red fox")) == "a red fox"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("ConditioningCombine", ("conditioning_1", "conditioning_2")),
        ("ConditioningConcat", ("conditioning_to", "conditioning_from")),
        ("ConditioningSetPropertiesAndCombine", ("cond", "cond_NEW")),
    ],
)
def test_combined_conditionings_give_both_texts(kind, names):
    both = dict(zip(names, (["one", 0], ["two", 0]), strict=True))
    nodes = {"one": encode("a fox,"), "two": encode("snow")}
    assert positive(good=node(kind, **both), **nodes) == "a fox, snow"


def test_the_same_text_counts_once():
    both = node("ConditioningCombine", conditioning_1=["one", 0], conditioning_2=["one", 0])
    assert positive(good=both, one=encode("a fox")) == "a fox"


@pytest.mark.parametrize(("strength", "text"), [(1.0, "to"), (0.0, "from"), (0.5, "to, from")])
def test_average_leaves_out_what_has_no_weight(strength, text):
    average = node(
        "ConditioningAverage",
        **{"conditioning_to": ["one", 0], "conditioning_from": ["two", 0]},
        conditioning_to_strength=strength,
    )
    assert positive(good=average, one=encode("to"), two=encode("from")) == text


def two_sided(kind: str, first_slot: int = 0) -> Graph:
    between = node(kind, positive=["good", 0], negative=["bad", 0], strength=1.0)
    graph = plain(between=between)
    graph["sampler"]["inputs"] |= {
        "positive": ["between", first_slot],
        "negative": ["between", first_slot + 1],
    }
    return graph


@pytest.mark.parametrize(
    ("kind", "slot"),
    [
        *(("ControlNetApplyAdvanced", 0), ("InpaintModelConditioning", 0), ("WanImageToVideo", 0)),
        ("LTXVReferenceAudio", 1),  # its first output is a model
    ],
)
def test_two_sided_nodes_give_each_side_at_its_output(kind, slot):
    found = generation_of(two_sided(kind, slot), "x.png")
    assert (found.prompt, found.negative) == ("a red fox", "blurry")


def test_swapped_outputs_give_the_swapped_texts():
    graph = two_sided("ControlNetApplyAdvanced")
    graph["sampler"]["inputs"] |= {"positive": ["between", 1], "negative": ["between", 0]}
    assert prompt(graph) == "blurry"


def test_zeroed_negative_is_empty_and_zeroed_positive_is_told():
    zero = node("ConditioningZeroOut", conditioning=["good", 0])
    graph = plain(zero=zero)
    graph["sampler"]["inputs"]["negative"] = ["zero", 0]
    assert generation_of(graph, "x.png").negative == ""
    graph["sampler"]["inputs"]["positive"] = ["zero", 0]
    assert reason(graph) == "its prompt is empty"


def test_a_zeroed_last_stage_leaves_the_prompt_to_the_stage_before():
    """Stable Cascade: stage B is drawn by no text, its conditioning holds what stage C drew."""
    graph = plain(
        zero=node("ConditioningZeroOut", conditioning=["good", 0]),
        stage=node(
            "StableCascade_StageB_Conditioning", conditioning=["zero", 0], stage_c=["sampler", 0]
        ),
        second=node("KSampler", seed=9, positive=["stage", 0], latent_image=["empty", 0]),
    )
    graph["decode"]["inputs"]["samples"] = ["second", 0]
    assert generation_of(graph, "x.png").prompt == "a red fox"
    assert generation_of(graph, "x.png").seed == 7


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"text_g": "a fox", "text_l": "a fox"}, "a fox"),
        ({"text_g": "a fox", "text_l": "snow"}, "a fox, snow"),
        ({"clip_l": "fox", "clip_g": "", "t5xxl": "a fox in snow"}, "a fox in snow"),
        ({"clip_l": "sketch", "t5xxl": "a fox", "guidance": 3.5}, "a fox, sketch"),
        ({"system_prompt": "superior", "user_prompt": "a fox"}, "a fox"),
        ({"prompt": "a fox", "image1": ["i", 0]}, "a fox"),
        ({"bert": "a fox", "mt5xl": "a fox"}, "a fox"),
        ({"clip_l": "a fox", "qwen25_7b": "a fox"}, "a fox"),
        ({"wording": "a fox"}, "a fox"),
    ],
)
def test_text_encoders_of_every_kind(inputs, text):
    assert positive(good=node("SomeTextEncode", clip=["model", 1], **inputs)) == text


def test_encoder_of_both_sides_gives_each():
    both = node("BothSides", clip=["model", 1], prompt="a fox", negative_prompt="blurry")
    graph = plain(good=both)
    graph["sampler"]["inputs"]["negative"] = ["good", 1]
    found = generation_of(graph, "x.png")
    assert (found.prompt, found.negative) == ("a fox", "blurry")


def test_loader_with_texts_of_its_own_as_the_efficiency_pack_has_it():
    loader = node("Efficient Loader", ckpt_name="x.safetensors", positive="a fox", negative="dull")
    graph = plain(loader=loader)
    graph["sampler"]["inputs"] |= {
        **{"model": ["loader", 0], "positive": ["loader", 1], "negative": ["loader", 2]}
    }
    found = generation_of(graph, "x.png")
    assert (found.prompt, found.negative, found.model) == ("a fox", "dull", "x.safetensors")


def test_encoder_whose_sides_are_linked_strings():
    """As the WanVideo pack has it: one output holds both, and the sampler takes it as one input."""
    graph = plain(
        good=node(
            "WanVideoTextEncode", positive_prompt=["p", 0], negative_prompt=["n", 0], t5=["t", 0]
        ),
        p=node("Some Text", text=["q", 0]),
        q=node("PrimitiveString", value="a fox"),
        n=node("PrimitiveString", value="dull"),
        sampler=node("WanVideoSampler", text_embeds=["good", 0], seed=4, steps=6, cfg=5.0),
    )
    found = generation_of(graph, "x.png")
    assert (found.prompt, found.negative, found.seed) == ("a fox", "dull", 4)


def test_pipes_carry_both_sides():
    graph = plain(
        pipe=node("ToBasicPipe", model=["model", 0], positive=["good", 0], negative=["bad", 0])
    )
    graph["sampler"] = node("ImpactKSamplerBasicPipe", basic_pipe=["pipe", 0], seed=5, steps=3)
    found = generation_of(graph, "x.png")
    assert (found.prompt, found.negative, found.seed) == ("a red fox", "blurry", 5)
    assert found.model == "sd15.safetensors"


def custom_sampling(**guider: Any) -> Graph:
    return plain(
        sampler=node(
            "SamplerCustomAdvanced",
            **{"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["which", 0]},
            **{"sigmas": ["split", 1], "latent_image": ["empty", 0]},
        ),
        noise=node("RandomNoise", noise_seed=11),
        which=node("KSamplerSelect", sampler_name="res_multistep"),
        split=node("SplitSigmas", sigmas=["levels", 0], step=2),
        levels=node("BasicScheduler", scheduler="beta", steps=12, denoise=1.0, model=["model", 0]),
        guider=node(**guider, model=["shift", 0]),
        shift=node("ModelSamplingFlux", model=["lora", 0], max_shift=1.15),
        lora=node("LoraLoader", model=["net", 0], clip=["c", 0], lora_name="style.safetensors"),
        net=node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
    )


@pytest.mark.parametrize(
    ("guider", "negative", "cfg"),
    [
        ({"kind": "BasicGuider", "conditioning": ["good", 0]}, "", None),
        (
            {"kind": "CFGGuider", "positive": ["good", 0], "negative": ["bad", 0], "cfg": 4.5},
            *("blurry", 4.5),
        ),
        (
            {
                **{"kind": "DualCFGGuider", "cond1": ["good", 0], "cond2": ["other", 0]},
                **{"negative": ["bad", 0], "cfg_conds": 3.0},
            },
            *("blurry", 3.0),
        ),
    ],
    ids=["basic", "cfg", "dual"],
)
def test_custom_sampling_is_gathered_from_its_parts(guider, negative, cfg):
    assert generation_of(custom_sampling(**guider), "x.png") == Generation(
        *("a red fox", negative, 11, 12, cfg, "res_multistep", "beta", "flux1-dev.safetensors")
    )


def test_advanced_sampler_and_numbers_from_primitives():
    advanced = node(
        "KSamplerAdvanced",
        **{
            "noise_seed": ["seed", 0],
            "steps": ["steps", 0],
            "cfg": "6.5",
            "sampler_name": "uni_pc",
        },
        **{"positive": ["good", 0], "negative": ["bad", 0], "latent_image": ["empty", 0]},
    )
    graph = plain(
        sampler=advanced,
        seed=node("Seed (rgthree)", seed=2**63),
        steps=node("PrimitiveInt", value=30),
    )
    found = generation_of(graph, "x.png")
    assert (found.seed, found.steps, found.cfg, found.sampler) == (2**63, 30, 6.5, "uni_pc")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (node("PrimitiveStringMultiline", value="a fox"), "a fox"),
        (node("StringConcatenate", string_a="a", string_b="fox", delimiter=" "), "a fox"),
        (node("StringReplace", string="a cat", find="cat", replace="fox"), "a fox"),
        (node("StringTrim", string="  a fox ", mode="Both"), "a fox"),
        (node("CaseConverter", string="A FOX", mode="lowercase"), "a fox"),
        (node("StringSubstring", string="say a fox!", start=4, end=9), "a fox"),
        (node("JsonExtractString", json_string='{"p": "a fox"}', key="p"), "a fox"),
        (node("StringFormat", f_string="a {a}", **{"values.a": ["word", 0]}), "a fox"),
        (node("AddTextPrefix", texts="fox", prefix="a "), "a fox"),
        (node("Text Multiline", text="a fox"), "a fox"),
        (node("Text Concatenate", delimiter=" ", text_a="a", text_b="fox"), "a fox"),
        (node("JoinStrings", string2="fox", string1=["word", 0], delimiter="comma"), "fox, fox"),
        (node("Text Find and Replace", text="a cat", find="cat", replace="fox"), "a fox"),
        (
            node(
                *("StringFunction|pysssss",),
                **{"action": "append", "tidy_tags": "yes", "text_a": "a", "text_b": "fox"},
            ),
            "a, fox",
        ),
        (node("PromptPair", prompt="a fox", negative_prompt="dull"), "a fox"),
        (node("ShowText|pysssss", text=["word", 0]), "fox"),
        (node("ComfySwitchNode", switch=False, on_false="a fox", on_true="a cat"), "a fox"),
        (node("ComfySwitchNode", switch=["yes", 0], on_false="a cat", on_true=["word", 0]), "fox"),
        (node("CR Text Input Switch", Input=2, text1="a cat", text2="a fox"), "a fox"),
        (node("Any Switch (rgthree)", any_01=["word", 0]), "fox"),
        (node("ImpactWildcardProcessor", wildcard_text="{a|b}", populated_text="a fox"), "a fox"),
        (node("PreviewAny", source=["word", 0]), "fox"),
    ],
    ids=lambda value: value["class_type"] if isinstance(value, dict) else "",
)
def test_text_through_nodes_of_strings(source, text):
    word, yes = node("PrimitiveString", value="fox"), node("PrimitiveBoolean", value=True)
    graph = plain(good=encode(["source", 0]), source=source, word=word, yes=yes)
    assert prompt(graph) == text


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (node("TextGenerate", clip=["model", 1], prompt="describe"), "node source (TextGenerate)"),
        (node("RegexReplace", string="aaaa", regex_pattern="(a+)+b"), "node source (RegexReplace)"),
        (node("StringSlice", text="a fox", start=2), "node source (StringSlice)"),
        (node("FooPrompt", amount=3), "node source (FooPrompt)"),
        (node("GeminiNode", prompt="describe a fox"), "node source (GeminiNode)"),
        (node("StringFormat", f_string="{a.__class__}", a="x"), "node source (StringFormat)"),
        (node("Styler", text="a fox", style="oil"), "node source (Styler)"),
        (node("TwoTexts", one="a", two="b"), "node source (TwoTexts)"),
    ],
    ids=lambda value: value["class_type"] if isinstance(value, dict) else "",
)
def test_text_that_only_a_run_makes_is_told_by_its_node(source, words):
    told = reason(plain(good=encode(["source", 0]), source=source))
    assert told == f"{words} makes its text only when the graph runs"


def test_conditioning_made_from_a_picture_is_told():
    video = node("SVD_img2vid_Conditioning", clip_vision=["v", 0], init_image=["i", 0], width=64)
    told = reason(plain(good=video, v=node("X"), i=node("LoadImage", image="x.png")))
    assert told == (
        "node good (SVD_img2vid_Conditioning) makes its conditioning from no text that the graph holds"
    )


def test_an_unreadable_negative_does_not_hide_the_prompt():
    found = generation_of(plain(bad=node("FooPrompt", a=1)), "x.png")
    assert (found.prompt, found.negative) == ("a red fox", "")


def two_passes() -> Graph:
    """A second sampler works on the first one's latents at another size, by another text; both are saved."""
    return plain(
        larger=node("LatentUpscale", samples=["sampler", 0], width=1024, height=1024),
        fine=encode("fine details"),
        second=node("KSampler", seed=8, positive=["fine", 0], latent_image=["larger", 0]),
        decode2=node("VAEDecode", samples=["second", 0]),
        save2=node("SaveImage", images=["decode2", 0], filename_prefix="hires"),
    )


def test_the_node_whose_prefix_fits_the_name_saved_the_picture():
    assert prompt(two_passes(), "ComfyUI_00003_.png") == "a red fox"
    assert prompt(two_passes(), "sub/hires_00003_.png") == "fine details"


def test_the_longer_prefix_wins_and_patterns_count_up_to_their_first_sign():
    graph = two_passes()
    graph["save2"]["inputs"]["filename_prefix"] = "out/ComfyUI_big_%date:yyyy%"
    assert prompt(graph, "ComfyUI_big_2025_00001_.png") == "fine details"
    assert prompt(graph, "ComfyUI_00001_.png") == "a red fox"


def test_the_size_tells_which_node_saved_a_picture_when_its_name_does_not():
    graph = two_passes()
    graph["save2"]["inputs"]["filename_prefix"] = "ComfyUI"
    for size, text in (((512, 512), "a red fox"), ((1024, 1024), "fine details")):
        found = generation_of(graph, "ComfyUI_00001_.png", lambda size=size: size)
        assert found.prompt == text
    told = "2 nodes save pictures of different prompts, and neither its name nor its size tells"
    assert told in reason(graph)
    assert told in reason(graph, size_of_file=lambda: (77, 77))


def test_several_saved_pictures_of_one_text_need_no_name():
    graph = plain(again=node("SaveImage", images=["decode", 0], filename_prefix="copy"))
    assert prompt(graph, "renamed.png") == "a red fox"


def test_previews_of_other_pictures_do_not_disturb():
    graph = plain(
        photo=node("LoadImage", image="x.png"), look=node("PreviewImage", images=["photo", 0])
    )
    assert prompt(graph, "renamed.png") == "a red fox"


def test_the_nearest_sampler_made_the_picture_and_detailers_only_repaired_it():
    graph = two_passes()
    face = node("FaceDetailer", image=["decode2", 0], positive=["good", 0], seed=1, steps=5)
    graph["save2"]["inputs"]["images"] = ["face", 0]
    assert prompt(graph | {"face": face}, "hires_00001_.png") == "fine details"


def test_upscaled_pictures_lead_back_to_their_sampler():
    graph = plain(
        large=node("ImageUpscaleWithModel", upscale_model=["u", 0], image=["decode", 0]),
        u=node("UpscaleModelLoader", model_name="4x.pth"),
    )
    graph["save"]["inputs"]["images"] = ["large", 0]
    assert generation_of(graph, "x.png").model == "sd15.safetensors"


def test_nodes_that_draw_by_themselves_tell_their_prompt():
    service = node("SomeImageService", model="big-1", seed=3, **{"model.prompt": "a fox"})
    graph = {"a": service, "b": node("SaveImage", images=["a", 0], filename_prefix="x")}
    found = generation_of(graph, "x_00001_.png")
    assert (found.prompt, found.seed, found.model) == ("a fox", 3, "big-1")


def test_subgraph_ids_are_ids():
    graph = json.loads(json.dumps(plain()).replace('"good"', '"12:5"'))
    assert prompt(graph) == "a red fox"


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ({}, "no graph of ComfyUI"),
        ([1, 2], "no graph of ComfyUI"),
        ("text", "no graph of ComfyUI"),
        ({"1": {"inputs": {}}}, "no graph of ComfyUI"),
        ({"1": node("LoadImage", image="x.png")}, "no saved picture leads to a sampler"),
        (plain(decode=node("LoadImage", image="x.png")), "no saved picture leads to a sampler"),
    ],
)
def test_what_is_no_graph_of_a_picture_is_told(graph, words):
    assert words in reason(graph)


def chained(count: int, kind: str, name: str, first: str, last: list[Any]) -> Graph:
    """`count` nodes of one kind in a row; `first` is the id that the graph links to."""
    names = [first, *(f"{first}{i}" for i in range(1, count))]
    ends = [*([following, 0] for following in names[1:]), last]
    return {key: node(kind, **{name: end}) for key, end in zip(names, ends, strict=True)}


def test_circles_of_every_kind_end_with_a_reason():
    circles = (
        chained(3, "ConditioningSetArea", "conditioning", "good", ["good", 0]),
        {"good": encode(["r", 0]), **chained(3, "Reroute", "", "r", ["r", 0])},
        {"good": encode(["t", 0]), **chained(3, "StringTrim", "string", "t", ["t", 0])},
    )
    for circle in circles:
        assert reason(plain(**circle)) == "the graph runs in a circle"
    backwards = plain()
    backwards["empty"]["inputs"]["samples"] = ["sampler", 0]
    assert prompt(backwards) == "a red fox"


def test_ten_thousand_nodes_in_a_row_are_no_hindrance():
    rows = (
        chained(10_000, "ConditioningSetArea", "conditioning", "good", ["text", 0]),
        {"good": encode(["r", 0])} | chained(10_000, "Reroute", "", "r", ["text2", 0]),
        {"good": encode(["t", 0])} | chained(10_000, "StringTrim", "string", "t", ["text2", 0]),
    )
    ends = {"text": encode("far away"), "text2": node("PrimitiveString", value="far away")}
    for row in rows:
        assert positive(**row, **ends) == "far away"


def test_doubling_a_thousand_times_over_stays_small():
    both = {
        f"c{i}": node(
            "ConditioningCombine", conditioning_1=[f"c{i + 1}", 0], conditioning_2=[f"c{i + 1}", 0]
        )
        for i in range(1000)
    }
    assert positive(good=node("Reroute", x=["c0", 0]), **both, c1000=encode("a fox")) == "a fox"
    strings = {
        f"s{i}": node("StringConcatenate", string_a=[f"s{i + 1}", 0], string_b=[f"s{i + 1}", 0])
        for i in range(1000)
    }
    graph = plain(good=encode(["s0", 0]), **strings, s1000=node("PrimitiveString", value="a fox"))
    assert reason(graph) == "its prompt is over 100000 characters"


def spoil(value: Any, rng: random.Random, share: float = 0.04) -> Any:
    """The same graph with some values replaced by what does not belong there."""
    wrong = [None, [], {}, "", "9", -1, 1.5, True, ["good", 0], ["no such", 0], ["good"], [[], {}]]
    wrong += [
        ["sampler", 99],
        ["save", 0],
        [0, 0],
        [None, None],
        float("nan"),
        float("inf"),
        10**40,
    ]
    if rng.random() < share:
        return rng.choice(wrong)
    if isinstance(value, dict):
        return {key: spoil(item, rng, share) for key, item in value.items()}
    if isinstance(value, list):
        return [spoil(item, rng, share) for item in value]
    return value


@pytest.mark.parametrize("seed", range(20))
def test_graphs_spoiled_at_random_end_in_a_text_or_a_reason(seed):
    rng = random.Random(seed)
    whole = custom_sampling(kind="CFGGuider", positive=["good", 0], negative=["bad", 0], cfg=1.0)
    pipe = two_sided("ControlNetApplyAdvanced")
    joined = plain(
        good=encode(["s", 0]),
        s=node("StringConcatenate", string_a=["w", 0], string_b="b", delimiter=", "),
        w=node("ComfySwitchNode", switch=True, on_true=["p", 0], on_false="x"),
        p=node("StringFormat", f_string="a {a}", a=["q", 0]),
        q=node("StringReplace", string="a", find="a", replace="fox"),
    )
    outcomes = set()
    for _ in range(60):
        for graph in (whole, pipe, joined, two_passes()):
            try:
                found = generation_of(spoil(graph, rng), "ComfyUI_00001_.png", lambda: (512, 512))
                assert isinstance(found.prompt, str) and found.prompt
                outcomes.add("text")
            except NoPromptError as error:
                assert str(error)
                outcomes.add("reason")
    assert outcomes == {"text", "reason"}


def many_passes(count: int) -> Graph:
    """Samplers in a row, each refining what the one before drew; texts and networks come over as many nodes."""
    graph = plain()
    for number in range(count):
        conditioning, model, sampler = f"c{number}", f"m{number}", f"s{number}"
        before = [f"c{number - 1}", 0] if number else ["good", 0]
        graph[conditioning] = node("FluxGuidance", guidance=3.5, conditioning=before)
        network = [f"m{number - 1}", 0] if number else ["model", 0]
        graph[model] = node("ModelSamplingFlux", model=network)
        graph[sampler] = node(
            "KSampler",
            **{"model": [f"m{count - 1}", 0], "positive": [f"c{count - 1}", 0], "denoise": 0.5},
            **{"latent_image": [f"s{number - 1}", 0] if number else ["sampler", 0]},
        )
    return graph | {"decode": node("VAEDecode", samples=[f"s{count - 1}", 0], vae=["model", 2])}


def test_passes_that_share_their_texts_ask_for_them_once(monkeypatch):
    asked = []
    own_text = texts.own_text
    monkeypatch.setattr(texts, "own_text", lambda *args: asked.append(args[1]) or own_text(*args))
    assert prompt(many_passes(100)) == "a red fox"
    assert asked.count("good") == 1


def test_a_graph_that_would_take_for_ever_is_given_up():
    assert reason(many_passes(1500)) == "its graph is too tangled to be read"


def test_a_link_to_an_output_below_zero_is_none():
    text = node("Text String", text="a red fox", text_b="b")
    assert positive(words=text, good=encode(["words", 0])) == "a red fox"
    assert "holds no text" in reason(plain(words=text, good=encode(["words", -9])))


@pytest.mark.parametrize(
    "source",
    [
        node("StringFormat", f_string="{a}" * 30_000, a="x" * 60_000),
        node("TextConcat", **{f"text_{n}": ["long", 0] for n in range(2000)}, delimiter=","),
    ],
)
def test_a_text_that_would_be_too_long_is_not_made(source):
    long = node("PrimitiveString", value="x" * 60_000)
    tracemalloc.start()
    try:
        said = reason(plain(long=long, words=source, good=encode(["words", 0])))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert said == "its prompt is over 100000 characters"
    assert peak < 20_000_000
