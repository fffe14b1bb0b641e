"""Pictures of several passes as popular packs make them; and all graphs of packs together."""

from typing import Any

from pack_chains import LOADERS, TEXTS, TTN, ttn
from pack_graphs import ENCODERS, SAVERS, Case, Graph, Node, base, encode, node, sampler


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
        None,
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

CASES = [*SAVERS, *ENCODERS, *TEXTS, *LOADERS, *PASSES]
