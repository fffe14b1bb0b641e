"""Graphs as popular node packs shape them, each with the prompt that its picture was drawn by.

Written by hand from the packs' own input names; None is where a reason is the only right answer.
`scripts/compare_readers.py` asks other programs the same.
"""

from typing import Any, NamedTuple

Node = dict[str, Any]
Graph = dict[str, Node]

FOX = "a red fox in snow"
UGLY = "ugly, blurry"


class Case(NamedTuple):
    pack: str
    shape: str
    graph: Graph
    prompt: str | None = FOX
    negative: str = UGLY

    @property
    def name(self) -> str:
        return f"{self.pack}: {self.shape}"


def node(kind: str, **inputs: Any) -> Node:
    return {"class_type": kind, "inputs": inputs}


def encode(text: Any) -> Node:
    return node("CLIPTextEncode", text=text, clip=["ck", 1])


def sampler(kind: str = "KSampler", **inputs: Any) -> Node:
    given = {"seed": 5, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"}
    links = {"model": ["ck", 0], "positive": ["pos", 0], "negative": ["neg", 0]}
    return node(kind, **(given | links | {"latent_image": ["lat", 0], "denoise": 1.0} | inputs))


def base(**more: Node) -> Graph:
    """The host's default graph; `more` replaces or adds nodes."""
    return {
        "ck": node("CheckpointLoaderSimple", ckpt_name="sd.safetensors"),
        "pos": encode(FOX),
        "neg": encode(UGLY),
        "lat": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "ks": sampler(),
        "dec": node("VAEDecode", samples=["ks", 0], vae=["ck", 2]),
        "save": node("SaveImage", filename_prefix="ComfyUI", images=["dec", 0]),
        **more,
    }


def drawn_by(slot: int, **nodes: Node) -> Graph:
    """The default graph whose positive is output `slot` of the node `p`."""
    return base(ks=sampler(positive=["p", slot]), **nodes)


def texts(**nodes: Node) -> Graph:
    """The default graph whose encoder is given the text of the node `t`."""
    return base(pos=encode(["t", 0]), **nodes)


LITERAL = node("String Literal", string=FOX)
LORA_CHOICE = {"Select to add LoRA": "Select the LoRA to add to the text"}
WILD_CHOICE = {"Select to add Wildcard": "Select the Wildcard to add to the text"}
INSERTS = {"insert_lora": "CHOOSE", "insert_embedding": "CHOOSE", "insert_saved": "CHOOSE"}


def saver(kind: str, **inputs: Any) -> Graph:
    """A saver that takes the prompt as text, linked from where the encoders have it."""
    given = {"images": ["dec", 0], "positive": ["t", 0], "negative": ["n", 0]}
    given |= {"steps": 20, "cfg": 7.0, "sampler_name": "euler"}
    return texts(
        t=LITERAL, n=node("String Literal", string="other"), save=node(kind, **(given | inputs))
    )


SAVERS = [
    Case(
        *("Image Saver", "Image Saver with linked texts"),
        saver("Image Saver", filename="%time", path="", extension="png", modelname="sd"),
    ),
    Case(
        *("Image Saver", "model's name, seed and sampler linked too"),
        saver(
            "Image Saver",
            **{"filename": "%time", "path": "", "extension": "png", "modelname": ["ck", 3]},
            **{"seed_value": ["ks", 0], "scheduler_name": "normal", "denoise": 1.0},
        ),
    ),
    Case(
        *("Prompt Reader", "SDPromptSaver with linked texts"),
        saver("SDPromptSaver", filename="%time", path="", model_name="sd", scheduler="normal"),
    ),
    Case(
        *("Mikey", "Save Image Mikey with the prompts of another picture"),
        saver(
            "Save Image Mikey | Mikey",
            **{"positive_prompt": "old", "negative_prompt": "old", "filename_prefix": "x"},
        ),
    ),
    Case(
        *("Image Saver", "metadata node beside a plain saver"),
        texts(
            t=LITERAL,
            m=node("Image Saver Metadata", positive=["t", 0], negative="other", steps=20, cfg=7.0),
            save=node("Image Saver Simple", images=["dec", 0], filename="x", metadata=["m", 0]),
        ),
    ),
    Case(
        *("LoRA Manager", "Save Image (LoraManager)"),
        base(
            photo=node("LoadImage", image="x.png"),
            look=node("PreviewImage", images=["photo", 0]),
            save=node("Save Image (LoraManager)", images=["dec", 0], filename_prefix="ComfyUI"),
        ),
    ),
    Case(
        *("KJNodes", "Save Image KJ with a caption"),
        base(
            save=node(
                "SaveImageKJ", images=["dec", 0], filename_prefix="ComfyUI", caption="another"
            )
        ),
    ),
    Case(
        *("SwarmUI", "SwarmSaveImageWS"),
        base(
            pos=node("SwarmClipTextEncodeAdvanced", clip=["ck", 1], steps=20, prompt=FOX, width=8),
            ks=sampler("SwarmKSampler", noise_seed=5, start_at_step=0, end_at_step=10000),
            save=node("SwarmSaveImageWS", images=["dec", 0], bit_depth="8bit"),
        ),
    ),
]

ENCODERS = [
    Case(
        *("Impact", "ImpactWildcardEncode"),
        drawn_by(
            2,
            p=node(
                "ImpactWildcardEncode",
                **{"model": ["ck", 0], "clip": ["ck", 1], "wildcard_text": "a __animal__ in snow"},
                **{"populated_text": f"{FOX} <lora:fur:0.8>", "mode": "populate", "seed": 3},
                **LORA_CHOICE,
                **WILD_CHOICE,
            ),
        ),
    ),
    Case(
        *("Inspire", "WildcardEncode"),
        drawn_by(
            2,
            p=node(
                "WildcardEncode //Inspire",
                **{"model": ["ck", 0], "clip": ["ck", 1], "token_normalization": "none"},
                **{"weight_interpretation": "comfy", "wildcard_text": "{a|b}"},
                **{"populated_text": FOX, "mode": "populate", "seed": 3},
            ),
        ),
    ),
    Case(
        *("Inspire", "MakeBasicPipe with populated texts of both sides"),
        base(
            b=node(
                "MakeBasicPipe //Inspire",
                **{"ckpt_name": "sd", "positive_wildcard_text": "{a}", "wildcard_mode": "populate"},
                **{"negative_wildcard_text": "{b}", "positive_populated_text": FOX},
                **{"negative_populated_text": UGLY, "token_normalization": "none", "seed": 1},
            ),
            ks=node(
                "KSamplerPipe //Inspire",
                **{"basic_pipe": ["b", 0], "seed": 1, "steps": 20, "denoise": 1.0},
                latent_image=["lat", 0],
            ),
        ),
    ),
    Case(
        *("rgthree", "Power Prompt"),
        drawn_by(
            0,
            p=node(
                "Power Prompt (rgthree)",
                **{"prompt": f"{FOX} <lora:fur:0.8>", "opt_model": ["ck", 0]},
                **{"opt_clip": ["ck", 1], **INSERTS},
            ),
        ),
    ),
    Case(
        *("rgthree", "text output of a Power Prompt"),
        base(
            p=node(
                "Power Prompt (rgthree)",
                **{"prompt": f"{FOX}<lora:fur:0.8>", "opt_model": ["ck", 0]},
                **{"opt_clip": ["ck", 1], **INSERTS},
            ),
            pos=encode(["p", 3]),
        ),
    ),
    Case(
        *("rgthree", "SDXL Power Prompt of one text"),
        drawn_by(
            0,
            p=node(
                "SDXL Power Prompt - Positive (rgthree)",
                **{"prompt_g": FOX, "prompt_l": "", "opt_model": ["ck", 0], "opt_clip": ["ck", 1]},
                **{"opt_clip_width": 1024, "opt_clip_height": 1024, **INSERTS},
                **{"target_width": -1, "target_height": -1, "crop_width": 0, "crop_height": 0},
            ),
        ),
    ),
    Case(
        *("rgthree", "SDXL Power Prompt of two texts"),
        drawn_by(
            0,
            p=node(
                "SDXL Power Prompt - Simple / Negative (rgthree)",
                **{"prompt_g": FOX, "prompt_l": "oil", "opt_clip": ["ck", 1]},
                **{"insert_embedding": "CHOOSE", "insert_saved": "CHOOSE"},
            ),
        ),
        f"{FOX}, oil",
    ),
    Case(
        *("Mikey", "prompt node of both sides that encodes"),
        base(
            p=node(
                "Prompt With Style V3 | Mikey",
                **{"positive_prompt": FOX, "negative_prompt": UGLY, "base_model": ["ck", 0]},
                **{"ratio_selected": "1:1", "clip_base": ["ck", 1], "clip_refiner": ["ck", 1]},
                **{"batch_size": 1, "seed": 2},
            ),
            ks=sampler(positive=["p", 2], negative=["p", 3], latent_image=["p", 1]),
        ),
    ),
    Case(
        *("Use Everywhere", "an encoder of both sides, each linked from a string"),
        base(
            p=node(
                "Two Clip Text Encode",
                **{"prompt": ["t", 0], "negative_prompt": ["n", 0], "clip": ["ck", 1]},
            ),
            t=node("String_", value=FOX),
            n=node("String_", value=UGLY),
            ks=sampler(positive=["p", 0], negative=["p", 1]),
        ),
    ),
    Case(
        *("WAS", "Text to Conditioning and NSP"),
        base(
            ks=sampler(positive=["c", 0], negative=["p", 0]),
            c=node("Text to Conditioning", clip=["ck", 1], text=["t", 0]),
            t=node("Text Multiline", text=FOX),
            p=node(
                "CLIPTextEncode (NSP)",
                **{"mode": "Noodle Soup Prompts", "noodle_key": "__", "seed": 0},
                **{"text": UGLY, "clip": ["ck", 1]},
            ),
        ),
    ),
    Case(
        *("LoRA Manager", "Prompt (LoraManager)"),
        drawn_by(0, p=node("Prompt (LoraManager)", text=FOX, clip=["ck", 1])),
    ),
    Case(
        *("host", "CLIPTextEncodeFlux with guidance"),
        base(
            pos=node("CLIPTextEncodeFlux", clip=["ck", 1], clip_l="", t5xxl=FOX, guidance=3.5),
        ),
    ),
    Case(
        *("host", "TextEncodeQwenImageEdit with a picture"),
        base(
            pos=node(
                "TextEncodeQwenImageEdit",
                **{"clip": ["ck", 1], "vae": ["ck", 2], "image": ["i", 0], "prompt": FOX},
            ),
            i=node("LoadImage", image="x.png"),
        ),
    ),
    Case(
        *("an unknown pack", "an encoder whose text has a name of its own"),
        drawn_by(1, p=node("Zzz Encode", te=["ck", 1], mode="fast", my_prompt_words=FOX, seed=1)),
    ),
    Case(
        *("an unknown pack", "two texts that say the same"),
        drawn_by(0, p=node("Zzz Blend", clip=["ck", 1], prompt_now=FOX, prompt_then=FOX, t=0.5)),
    ),
    Case(
        *("an unknown pack", "two texts of which neither is the prompt by its name"),
        drawn_by(
            0, p=node("Zzz Blend", clip=["ck", 1], prompt_now="a fox", prompt_then="a cat", t=0.5)
        ),
        None,
    ),
]
