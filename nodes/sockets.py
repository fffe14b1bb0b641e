"""Custom sockets, named once. MODEL, LATENT, CONDITIONING, LORA_MODEL and LOSS_MAP are the host's own."""

from comfy_api.latest import io

Winners = io.Custom("SEPPO_WINNERS")
"""`seppo_core.data.winners.Winners`: images and captions, lazy"""
Dataset = io.Custom("SEPPO_DATASET")
"""`seppo_core.data.EncodedDataset`"""
References = io.Custom("SEPPO_REFERENCES")
"""dict: the section `references` of the configuration"""
Optimizer = io.Custom("SEPPO_OPTIMIZER")
"""dict: sections `optimizer`, `lora`, `compute`, `guard`, `run` of the configuration and `accumulation`"""
Run = io.Custom("SEPPO_RUN")
"""`seppo_core.runs.run.Run`: a run directory"""
Tests = io.Custom("SEPPO_TESTS")
"""`test_prompts.TestPrompts`: what to draw now and then while training"""
LoraModel = io.Custom("LORA_MODEL")
LossMap = io.Custom("LOSS_MAP")

CATEGORY = "SePPO"
