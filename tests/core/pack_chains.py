"""More graphs of popular packs: texts that nodes make, loaders and pipes."""

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
