"""Graphs that train on thin models, for tests of SePPOTrain: settings, three winners, and what came out."""

from __future__ import annotations

from thin import thin_conditioning, thin_latent

TRAIN = {
    "preset": "seppo",
    "steps": 3,
    "batch_size": 2,
    "learning_rate": 1e-3,
    "rank": 4,
    "beta": 100.0,
    "criterion": "sign",
    "seed": 0,
}
REFERENCES = {
    "selection": "random",
    "snapshot_every": 2,
    "capacity": 4,
    "reuse": 1,
    "sampler": "euler",
    "scheduler": "normal",
    "sampling_steps": 2,
    "guidance_scale": 1.0,
    "sample_batch": 2,
}
OPTIMIZER = {
    "optimizer": "adamw",
    "schedule": "constant",
    "warmup": 0.0,
    "weight_decay": 0.0,
    "clip": 1.0,
    "accumulation": 1,
    "precision": "auto",
    "gradient_checkpointing": False,
    "alpha": 0.0,
    "modules": "linear",
    "pattern": "",
    "loser_weight": 0.5,
    "checkpoint_every": 50,
    "preview_every": 2,
}


def latents(kind, count=3, size=8):
    return [thin_latent(kind, seed=i, size=size) for i in range(count)]


def conditionings(kind, count=3):
    return [thin_conditioning(kind, seed=i) for i in range(count)]


def dataset(host, kind, count=3, **others):
    inputs = {"latents": latents(kind, count), "positive": conditionings(kind, count), **others}
    return host.call("SePPODatasetFromLatents", **inputs)[0]


def graph(host, kind, name, dtype="fp16", train=(), references=(), optimizer=(), **links):
    """A graph of SePPOTrain (node "train") on three winners; `links` replace or add inputs."""
    if "dataset" not in links:
        links["dataset"] = host.constant(dataset(host, kind))
    extra = {f"in_{key}": value for key, value in links.items()}
    return {
        **extra,
        "model": {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": host.thin_name(kind, dtype), "weight_dtype": "default"},
        },
        "references": {
            "class_type": "SePPOReferenceSettings",
            "inputs": REFERENCES | dict(references),
        },
        "optimizer": {
            "class_type": "SePPOOptimizerSettings",
            "inputs": OPTIMIZER | dict(optimizer),
        },
        "train": {
            "class_type": "SePPOTrain",
            "inputs": {
                **TRAIN,
                **dict(train),
                "run_name": name,
                "model": ["model", 0],
                "references": ["references", 0],
                "optimizer": ["optimizer", 0],
                **{key: [f"in_{key}", 0] for key in links},
            },
        },
    }


def sampled(host, kind, model, seed=5):
    """Latents of two KSampler steps from a node's MODEL output."""
    prompt = {
        "model": host.constant(model),
        "positive": host.constant(thin_conditioning(kind, seed=1)),
        "latent": host.constant(thin_latent(kind, seed=2, size=8)),
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["model", 0],
                "positive": ["positive", 0],
                "negative": ["positive", 0],
                "latent_image": ["latent", 0],
                "seed": seed,
                "steps": 2,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
    }
    return host.run_graph(prompt, wanted=["sampler"])["sampler"][0]["samples"]


def run_of(host, name):
    return host.core("runs.run").Run(host.output / "seppo" / name)
