"""What a file of trained weights says of the run that it comes from."""

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from .config import config_of, preset_of


def describe(
    about: Mapping[str, Any], name: str, step: int, strength: float = 1.0
) -> dict[str, str]:
    """What a file of the run `name` says about itself; `about` is its run.json, `step` the weights'.

    `modelspec.*` and `ss_*` are names that model browsers read; everything else is under `seppo.*`.
    """
    config = config_of(about)
    preset = preset_of(config)
    settings = {name: part for name, part in config.as_dict().items() if name != "run"}  # no paths
    base_name = str(about.get("base_name") or "an unnamed model")
    return {
        "modelspec.title": f"{name}, step {step}",
        "modelspec.date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "modelspec.description": (
            f"Low-rank weights for {base_name}, trained by SePPO (Semi-Policy Preference "
            f"Optimization, preset {preset}) for {step} steps on winning images"
        ),
        "ss_output_name": name,
        "ss_sd_model_name": base_name,
        "ss_network_dim": str(config.lora.rank),
        "ss_network_alpha": repr(config.lora.scale * config.lora.rank * strength),
        "ss_steps": str(step),
        "seppo.version": str(about.get("version", "unknown")),
        "seppo.run": name,
        "seppo.step": str(step),
        "seppo.family": str(about.get("family", "unknown")),
        "seppo.base_name": base_name,
        "seppo.base_hash": str(about.get("base", "unknown")),
        "seppo.dataset_hash": str(about.get("dataset", "unknown")),
        "seppo.method": "SePPO",
        "seppo.preset": preset,
        "seppo.objective": config.loss.objective,
        "seppo.criterion": config.loss.criterion,
        "seppo.selection": config.references.selection,
        "seppo.strength": repr(float(strength)),
        "seppo.settings": json.dumps(settings),
    }
