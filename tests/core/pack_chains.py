"""More graphs of popular packs: texts that nodes make, loaders and pipes, and pictures of several passes."""

from typing import Any

import pack_graphs
from pack_graphs import FOX, LITERAL, UGLY, Case, Graph, Node, base, encode, node, sampler, texts

EFFICIENT = {"vae_name": "Baked VAE", "clip_skip": -1, "lora_name": "None", "batch_size": 1}
EFFICIENT |= {"token_normalization": "none", "weight_interpretation": "comfy"}


def efficient(positive: Any, negative: Any = UGLY, **more: Node) -> Graph:
    loader = node(
        "Efficient Loader",
        **{"ckpt_name": "sd.safetensors", "positive": positive, "negative": negative, **EFFICIENT},
    )
    ks = sampler(
        "KSampler (Efficient)",
        **{"model": ["l", 0], "positive": ["l", 1], "negative": ["l", 2], "latent_image": ["l", 3]},
        **{"preview_method": "auto", "vae_decode": "true", "optional_vae": ["l", 4]},
    )
    save = node("SaveImage", filename_prefix="ComfyUI", images=["ks", 5])
    return {"l": loader, "ks": ks, "save": save, **more}


def easy(positive: Any, output: str = "Save", **more: Node) -> Graph:
    loader = node(
        "easy fullLoader",
        **{"ckpt_name": "sd.safetensors", "config_name": "Default", "positive": positive},
        **{"positive_token_normalization": "none", "positive_weight_interpretation": "comfy"},
        **{"negative": UGLY, "negative_token_normalization": "none", "batch_size": 1},
        **{"resolution": "512 x 512", "negative_weight_interpretation": "comfy"},
    )
    settings = node(
        "easy preSampling",
        **{"steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"},
        **{"denoise": 1.0, "seed": 5, "pipe": ["l", 0]},
    )
    save = node(
        "easy kSampler", image_output=output, link_id=0, save_prefix="ComfyUI", pipe=["s", 0]
    )
    return {"l": loader, "s": settings, "k": save, **more}


TTN = {"lora_name": "None", "lora_strength": 1.0, "upscale_method": "None", "factor": 2}
TTN |= {"steps": 20, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
TTN |= {"save_prefix": "ComfyUI", "file_type": "PNG", "embed_workflow": True, "seed": 5}


def ttn(output: str = "Save", loader: Any = None, **more: Node) -> Graph:
    return {
        "l": node(
            "ttN pipeLoader_v2",
            **(
                {"ckpt_name": "sd.safetensors", "positive": FOX, "negative": UGLY, "seed": 5}
                | {"positive_token_normalization": "none", "loras": "", **(loader or {})}
            ),
        ),
        "k": node("ttN pipeKSampler_v2", pipe=["l", 0], image_output=output, **TTN),
        **more,
    }


WORDS = {"a": node("Text Multiline", text="a red fox"), "b": node("Text Multiline", text="in snow")}
WAS_JOIN = node(
    "Text Concatenate",
    **{"delimiter": " ", "clean_whitespace": "true", "text_a": ["a", 0], "text_b": ["b", 0]},
)

TEXTS = [
    Case("WAS", "Text Concatenate", texts(t=WAS_JOIN, **WORDS)),
    Case(
        *("WAS", "third output of Text String"),
        base(
            pos=encode(["t", 2]),
            t=node("Text String", text="a", text_b="b", text_c=FOX, text_d="d"),
        ),
    ),
    Case(
        *("WAS", "Text Input Switch"),
        texts(t=node("Text Input Switch", text_a="a cat", text_b=FOX, boolean=False)),
    ),
    Case(
        *("pysssss", "Show Text with what it showed before"),
        texts(t=node("ShowText|pysssss", text=["s", 0], text_0="a cat"), s=LITERAL),
    ),
    Case(
        *("KJNodes", "JoinStringMulti"),
        texts(
            t=node(
                "JoinStringMulti",
                **{"inputcount": 2, "string_1": "a red fox", "string_2": "in snow"},
                **{"delimiter": " ", "return_list": False},
            )
        ),
    ),
    Case(
        *("easy-use", "promptConcat"),
        texts(
            t=node("easy promptConcat", prompt1=["a", 0], prompt2=["b", 0], separator=" "), **WORDS
        ),
    ),
    Case(
        *("easy-use", "prompt with menus"),
        texts(
            t=node(
                "easy prompt",
                **{"text": FOX, "prefix": "Select the prefix add to the text"},
                **{"subject": "Select the subject add to the text"},
            )
        ),
    ),
    Case(
        *("easy-use", "wildcards without any wildcard"),
        texts(
            t=node(
                "easy wildcards", text=FOX, seed=1, multiline_mode=False, **pack_graphs.LORA_CHOICE
            )
        ),
    ),
    Case(
        *("easy-use", "wildcards of which the run drew one"),
        texts(t=node("easy wildcards", text="a {red|blue} fox", seed=1, multiline_mode=False)),
        None,
    ),
    Case(
        *("Dynamic Prompts", "random generator of a choice"),
        texts(t=node("DPRandomGenerator", text="a {red|blue} fox", seed=1, autorefresh="No")),
        None,
    ),
    Case(
        *("Comfyroll", "Combine Prompt"),
        texts(
            t=node("CR Combine Prompt", part1="a red", part2="fox", part3="in snow", separator=" ")
        ),
    ),
    Case(
        *("Comfyroll", "Text Input Switch of two prompt texts"),
        texts(
            t=node("CR Text Input Switch", Input=2, text1=["a", 0], text2=["p", 0]),
            a=WORDS["a"],
            p=node("CR Prompt Text", prompt=FOX),
        ),
    ),
    Case(
        *("ttN", "the whole of three boxes"),
        base(
            pos=encode(["t", 6]),
            t=node(
                "ttN text3BOX_3WAYconcat",
                **{"text1": "a red", "text2": "fox", "text3": "in snow", "delimiter": " "},
            ),
        ),
    ),
    Case(
        *("ttN", "the second of three boxes"),
        base(
            pos=encode(["t", 1]),
            t=node(
                "ttN text3BOX_3WAYconcat",
                **{"text1": "a", "text2": FOX, "text3": "b", "delimiter": " "},
            ),
        ),
    ),
    Case(
        *("LoRA tag loader", "text without its tags"),
        base(
            pos=encode(["t", 2]),
            t=node(
                "LoraTagLoader",
                **{"model": ["ck", 0], "clip": ["ck", 1], "text": f"<lora:fur:1> {FOX}"},
            ),
        ),
    ),
    Case(
        *("LoRA Manager", "trigger words joined in front of the encoder"),
        texts(
            t=node("JoinStrings", string1=["l", 2], string2=FOX, delimiter=", "),
            l=node(
                *("Lora Loader (LoraManager)",),
                **{"model": ["ck", 0], "clip": ["ck", 1], "text": "<lora:x:1>", "loras": []},
            ),
        ),
        None,
    ),
    Case(
        *("SDXL styler", "a style from a file"),
        texts(
            t=node(
                "SDXLPromptStyler",
                **{"text_positive": FOX, "text_negative": UGLY, "style": "sai-anime"},
                **{"log_prompt": False, "style_positive": True, "style_negative": True},
            )
        ),
        None,
    ),
    Case(
        *("Florence", "a caption made from a picture"),
        texts(
            t=node("Zzz Describe", image=["i", 0], prompt="describe it", model=["ck", 0]),
            i=node("LoadImage", image="x.png"),
        ),
        None,
    ),
]

LOADERS = [
    Case("Efficiency", "Efficient Loader with its own texts", efficient(FOX)),
    Case(
        "Efficiency",
        "Efficient Loader behind a text join",
        efficient(["j", 0], j=WAS_JOIN, **WORDS),
    ),
    Case(
        *("Efficiency", "Efficient Loader with both sides linked through joins"),
        efficient(
            *(["j", 0], ["n", 0]),
            **{"j": WAS_JOIN, **WORDS},
            n=node("Text Concatenate", delimiter=", ", text_a=["u", 0], text_b="blurry"),
            u=node("Text Multiline", text="ugly"),
        ),
    ),
    Case(
        *("Efficiency", "second sampler that is handed the first one's conditionings"),
        efficient(
            FOX,
            up=node("LatentUpscaleBy", samples=["ks", 3], scale_by=1.5),
            k2=sampler(
                "KSampler (Efficient)",
                **{"model": ["ks", 0], "positive": ["ks", 1], "negative": ["ks", 2]},
                **{"latent_image": ["up", 0], "denoise": 0.5},
            ),
            save=node("SaveImage", filename_prefix="ComfyUI", images=["k2", 5]),
        ),
    ),
    Case(
        *("Efficiency", "SDXL tuple with a refiner"),
        {
            "l": node(
                "Eff. Loader SDXL",
                **{"base_ckpt_name": "xl", "refiner_ckpt_name": "ref", "positive": ["t", 0]},
                **{"negative": UGLY, "positive_ascore": 6.0, "negative_ascore": 2.0, **EFFICIENT},
            ),
            "t": LITERAL,
            "ks": node(
                "KSampler SDXL (Eff.)",
                **{"sdxl_tuple": ["l", 0], "noise_seed": 5, "steps": 20, "cfg": 7.0},
                **{"latent_image": ["l", 1], "start_at_step": 0, "refine_at_step": -1},
            ),
            "save": node("SaveImage", filename_prefix="ComfyUI", images=["ks", 3]),
        },
    ),
    Case(
        *("Efficiency", "packed SDXL tuple whose refiner has words of its own"),
        base(
            p=node(
                "Pack SDXL Tuple",
                **{"base_model": ["ck", 0], "base_clip": ["ck", 1], "base_positive": ["pos", 0]},
                **{"base_negative": ["neg", 0], "refiner_model": ["ck", 0]},
                **{"refiner_positive": ["up", 0], "refiner_negative": ["neg", 0]},
            ),
            up=encode("high quality"),
            ks=node(
                "KSampler SDXL (Eff.)",
                **{
                    "sdxl_tuple": ["p", 0],
                    "noise_seed": 5,
                    "steps": 20,
                    "latent_image": ["lat", 0],
                },
            ),
        ),
    ),
    Case("easy-use", "kSampler that saves", easy(FOX)),
    Case("easy-use", "positive node", easy(["p", 0], p=node("easy positive", positive=FOX))),
    Case(
        *("easy-use", "kSampler that hides, with SaveImage behind"),
        easy(FOX, "Hide", save=node("SaveImage", filename_prefix="ComfyUI", images=["k", 1])),
    ),
    Case(
        *("easy-use", "loader behind a join of texts"),
        easy(
            ["j", 0],
            **WORDS,
            j=node("easy promptConcat", prompt1=["a", 0], prompt2=["b", 0], separator=" "),
        ),
    ),
    Case(
        *("easy-use", "fullkSampler that saves"),
        easy(
            FOX,
            k=node(
                "easy fullkSampler",
                **{"pipe": ["l", 0], "steps": 20, "cfg": 7.0, "sampler_name": "euler"},
                **{"scheduler": "normal", "denoise": 1.0, "image_output": "Hide/Save", "seed": 5},
                save_prefix="ComfyUI",
            ),
        ),
    ),
    Case(
        *("easy-use", "prompt of the pipe replaced"),
        easy(
            "old words",
            e=node("easy pipeEditPrompt", pipe=["l", 0], positive=FOX, negative=UGLY),
            s=node("easy preSampling", steps=20, denoise=1.0, seed=5, pipe=["e", 0]),
        ),
    ),
    Case(
        *("easy-use", "conditioning put into a pipe"),
        base(
            p=node("easy pipeIn", model=["ck", 0], pos=["pos", 0], neg=["neg", 0], vae=["ck", 2]),
            s=node("easy preSampling", steps=20, denoise=1.0, seed=5, pipe=["p", 0]),
            k=node("easy kSampler", image_output="Save", save_prefix="ComfyUI", pipe=["s", 0]),
        )
        | {"save": node("SaveLatent", samples=["ks", 0], filename_prefix="x")},
    ),
    Case("ttN", "pipeKSampler that saves", ttn()),
    Case(
        *("ttN", "positive of its own instead of the pipe's"),
        ttn(
            loader={"positive": "old words"},
            ck=node("CheckpointLoaderSimple", ckpt_name="sd.safetensors"),
            pos=encode(FOX),
            k=node(
                "ttN pipeKSampler_v2",
                **{"pipe": ["l", 0], "optional_positive": ["pos", 0], "image_output": "Save"},
                **TTN,
            ),
        ),
    ),
    Case(
        *("ttN", "text in front of the loader's"),
        ttn(
            loader={"prepend_positive": ["t", 0], "positive": "in snow"},
            t=node("ttN text", text="a red fox"),
        ),
    ),
    Case(
        *("ttN", "words added to the pipe"),
        ttn(
            loader={"positive": "a red fox"},
            e=node(
                "ttN pipeEncodeConcat", pipe=["l", 0], toggle=True, positive="snow", negative=""
            ),
            k=node("ttN pipeKSampler_v2", pipe=["e", 0], image_output="Save", **TTN),
        ),
        "a red fox, snow",
    ),
    Case(
        *("ttN", "shown only, saved behind"),
        ttn("Preview", save=node("ttN imageOutput", image=["k", 7], image_output="Save")),
    ),
    Case(
        *("rgthree", "contexts"),
        base(
            c=node("Context Big (rgthree)", model=["ck", 0], clip=["ck", 1], latent=["lat", 0]),
            c2=node(
                "Context (rgthree)", base_ctx=["c", 0], positive=["pos", 0], negative=["neg", 0]
            ),
            c3=node("Context Switch (rgthree)", ctx_02=["c2", 0]),
            ks=sampler(
                **{"model": ["c3", 1], "positive": ["c3", 4], "negative": ["c3", 5]},
                latent_image=["c3", 6],
            ),
            c4=node("Context (rgthree)", base_ctx=["c3", 0], images=["dec", 0]),
            save=node("SaveImage", filename_prefix="ComfyUI", images=["c4", 7]),
        ),
    ),
    Case(
        *("Impact", "basic pipe with a changed positive"),
        base(
            p=node("ToBasicPipe", model=["ck", 0], positive=["old", 0], negative=["neg", 0]),
            old=encode("old words"),
            e=node("EditBasicPipe", basic_pipe=["p", 0], positive=["pos", 0]),
            o=node("FromBasicPipe_v2", basic_pipe=["e", 0]),
            ks=sampler(model=["o", 1], positive=["o", 4], negative=["o", 5]),
        ),
    ),
    Case(
        *("Fooocus nodes", "Ksampler that saves"),
        {
            "l": node(
                "Fooocus Loader",
                **{"base_model_name": "xl", "refiner_model_name": "None", "positive": FOX},
                **{"negative": UGLY, "resolution": "1024 x 1024", "clip_skip": -2},
            ),
            "s": node("Fooocus PreKSampler", pipe=["l", 0], steps=30, cfg=4.0, seed=5, denoise=1.0),
            "k": node(
                "Fooocus KSampler", pipe=["s", 0], image_output="Save", save_prefix="Fooocus"
            ),
        },
    ),
    Case(
        *("Mikey", "sampler with conditionings of base and refiner"),
        base(
            ks=node(
                "Mikey Sampler",
                **{"base_model": ["ck", 0], "refiner_model": ["ck", 0], "samples": ["lat", 0]},
                **{"vae": ["ck", 2], "positive_cond_base": ["pos", 0], "seed": 5},
                **{"negative_cond_base": ["neg", 0], "positive_cond_refiner": ["up", 0]},
                **{"negative_cond_refiner": ["neg", 0], "model_name": "4x.pth"},
            ),
            up=encode("high quality"),
        ),
    ),
    Case(
        *("KJNodes", "conditionings passed through and masked"),
        base(
            a=node("CondPassThrough", positive=["pos", 0], negative=["neg", 0]),
            ks=sampler(positive=["a", 0], negative=["a", 1]),
        ),
    ),
    Case(
        *("WAS", "bus"),
        base(
            b=node("Bus Node", model=["ck", 0], positive=["pos", 0], negative=["neg", 0]),
            ks=sampler(positive=["b", 4], negative=["b", 5]),
        ),
    ),
]


def second(**inputs: Any) -> Graph:
    """The default graph with a second pass by other words on the first one's latents."""
    return base(
        up=encode("high quality"),
        big=node("LatentUpscaleBy", samples=["ks", 0], upscale_method="nearest", scale_by=1.5),
        k2=sampler(**({"positive": ["up", 0], "latent_image": ["big", 0]} | inputs)),
        dec=node("VAEDecode", samples=["k2", 0], vae=["ck", 2]),
    )


def on_picture(kind: str, **inputs: Any) -> Graph:
    """The default graph with a node that redraws the finished picture by other words."""
    given = {"model": ["ck", 0], "positive": ["up", 0], "negative": ["neg", 0], "vae": ["ck", 2]}
    given |= {"seed": 1, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"}
    return base(
        up=encode("high quality"),
        us=node(kind, **(given | {"image": ["dec", 0], "denoise": 0.3} | inputs)),
        save=node("SaveImage", filename_prefix="ComfyUI", images=["us", 0]),
    )


def advanced(start: int, add_noise: str = "disable", **inputs: Any) -> Node:
    steps = {"start_at_step": start, "end_at_step": 10000, "add_noise": add_noise, "noise_seed": 5}
    return sampler("KSamplerAdvanced", **(steps | {"steps": 25, "denoise": None} | inputs))


PASSES = [
    Case("host", "second pass at denoise 0.3", second(denoise=0.3)),
    Case("host", "second pass at denoise 0.55", second(denoise=0.55)),
    Case("host", "second pass that is drawn anew", second(denoise=1.0), "high quality"),
    Case(
        "host", "second pass of which nobody knows whose picture it is", second(denoise=0.85), None
    ),
    Case(
        "host",
        "second pass at denoise 0.85 by the same words",
        second(denoise=0.85, positive=["pos", 0]),
    ),
    Case(
        "host",
        "second pass whose denoise comes from a number node",
        {**second(denoise=["d", 0]), "d": node("PrimitiveFloat", value=0.3)},
    ),
    Case(
        "UltimateSDUpscale", "after the first pass", on_picture("UltimateSDUpscale", upscale_by=2.0)
    ),
    Case("Impact", "FaceDetailer after the first pass", on_picture("FaceDetailer", guide_size=384)),
    Case(
        *("UltimateSDUpscale", "of a photo that was loaded"),
        on_picture("UltimateSDUpscale", image=["i", 0]) | {"i": node("LoadImage", image="x.png")},
        "high quality",
    ),
    Case(
        *("UltimateSDUpscale", "two upscales, one upon the other"),
        on_picture("UltimateSDUpscale")
        | {
            "u2": node(
                *("UltimateSDUpscale",),
                **{"image": ["us", 0], "model": ["ck", 0], "positive": ["more", 0], "denoise": 0.2},
                **{"negative": ["neg", 0], "vae": ["ck", 2], "seed": 1, "steps": 20},
            ),
            "more": encode("masterpiece"),
            "save": node("SaveImage", filename_prefix="ComfyUI", images=["u2", 0]),
        },
    ),
    Case(
        *("Impact", "iterative upscale by a provider's words"),
        base(
            up=encode("high quality"),
            pr=node(
                "PixelKSampleUpscalerProvider",
                **{"model": ["ck", 0], "vae": ["ck", 2], "positive": ["up", 0], "seed": 1},
                **{"negative": ["neg", 0], "steps": 20, "cfg": 7.0, "denoise": 0.4},
            ),
            it=node("IterativeLatentUpscale", samples=["big", 0], upscaler=["pr", 0], steps=3),
            big=node("LatentUpscaleBy", samples=["ks", 0], scale_by=1.5),
            dec=node("VAEDecode", samples=["it", 0], vae=["ck", 2]),
        ),
    ),
    Case(
        *("host", "refiner that goes on with the noise that is left"),
        base(
            up=encode("high quality"),
            ks=advanced(0, "enable", end_at_step=20, return_with_leftover_noise="enable"),
            k2=advanced(20, positive=["up", 0], latent_image=["ks", 0]),
            dec=node("VAEDecode", samples=["k2", 0], vae=["ck", 2]),
        ),
    ),
    Case(
        *("host", "img2img pass of low noise through SamplerCustomAdvanced"),
        base(
            up=encode("high quality"),
            g=node("BasicGuider", model=["ck", 0], conditioning=["up", 0]),
            s=node("BasicScheduler", model=["ck", 0], scheduler="beta", steps=20, denoise=0.25),
            k2=node(
                "SamplerCustomAdvanced",
                **{"noise": ["n", 0], "guider": ["g", 0], "sampler": ["w", 0], "sigmas": ["s", 0]},
                latent_image=["ks", 0],
            ),
            n=node("RandomNoise", noise_seed=5),
            w=node("KSamplerSelect", sampler_name="euler"),
            dec=node("VAEDecode", samples=["k2", 0], vae=["ck", 2]),
        ),
    ),
    Case(
        *("host", "lower half of split noise levels"),
        base(
            up=encode("high quality"),
            s=node("BasicScheduler", model=["ck", 0], scheduler="beta", steps=20, denoise=1.0),
            sp=node("SplitSigmas", sigmas=["s", 0], step=14),
            k2=node(
                "SamplerCustom",
                **{"model": ["ck", 0], "add_noise": False, "noise_seed": 5, "cfg": 7.0},
                **{"positive": ["up", 0], "negative": ["neg", 0], "sampler": ["w", 0]},
                **{"sigmas": ["sp", 1], "latent_image": ["ks", 0]},
            ),
            w=node("KSamplerSelect", sampler_name="euler"),
            dec=node("VAEDecode", samples=["k2", 0], vae=["ck", 2]),
        ),
    ),
    Case(
        *("host", "a part drawn anew behind a mask"),
        second(denoise=1.0)
        | {
            "big": node("SetLatentNoiseMask", samples=["ks", 0], mask=["m", 0]),
            "m": node("LoadImageMask", image="m.png", channel="red"),
        },
    ),
    Case(
        *("UltimateSDUpscale", "of a picture that is upscaled already"),
        on_picture("UltimateSDUpscaleNoUpscale", image=None, upscaled_image=["dec", 0]),
    ),
    Case(
        *("ttN", "second pipeKSampler on the first one's pipe"),
        ttn(
            "Hide",
            ck=node("CheckpointLoaderSimple", ckpt_name="sd.safetensors"),
            up=encode("high quality"),
            k2=node(
                "ttN pipeKSampler_v2",
                **{"pipe": ["k", 0], "optional_positive": ["up", 0], "image_output": "Save"},
                **(TTN | {"denoise": 0.4}),
            ),
        ),
    ),
    Case(
        *("host", "first pass whose text only the run made"),
        second(denoise=0.3) | {"pos": encode(["g", 0]), "g": node("GeminiNode", prompt="describe")},
        None,
    ),
    Case(
        *("host", "last pass whose text only the run made"),
        second(denoise=1.0) | {"up": encode(["g", 0]), "g": node("GeminiNode", prompt="describe")},
        None,
    ),
    Case(
        *("host", "two pictures of different words blended"),
        base(
            other=encode("a blue whale"),
            k2=sampler(positive=["other", 0]),
            dec2=node("VAEDecode", samples=["k2", 0], vae=["ck", 2]),
            mix=node("ImageBlend", image1=["dec", 0], image2=["dec2", 0], blend_factor=0.5),
            save=node("SaveImage", filename_prefix="ComfyUI", images=["mix", 0]),
        ),
        None,
    ),
    Case(
        *("host", "pose of an earlier picture behind a ControlNet"),
        base(
            ks=sampler(positive=["cn", 0], negative=["cn", 1]),
            cn=node(
                "ControlNetApplyAdvanced",
                **{"positive": ["pos", 0], "negative": ["neg", 0], "image": ["dec0", 0]},
            ),
            dec0=node("VAEDecode", samples=["k0", 0], vae=["ck", 2]),
            k0=sampler(positive=["other", 0]),
            other=encode("a blue whale"),
        ),
    ),
]

CASES = [*pack_graphs.SAVERS, *pack_graphs.ENCODERS, *TEXTS, *LOADERS, *PASSES]
