"""What the user chose in the page's settings, section SePPO, where the server needs it too."""

import json
import time
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args

from ..seppo_core.errors import ConfigError

RUN_FOLDER = "SePPO.Runs.folder"
PREVIEW_EVERY = "SePPO.Runs.preview_every"
"""Ids in the host's settings; web/settings.js has the same."""

ATTEMPTS, PAUSE = 3, 0.05
"""The host empties its file for a moment when it writes it."""


def settings_file() -> Path:
    return Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"


def chosen(name: str, default: Any) -> Any:
    """The value of a setting, or `default` if it was never changed or the server has several users.

    Runs are not a user's own there, and a graph does not say whose it is. ConfigError for a damaged file.
    """
    path = settings_file()
    if args.multi_user or not path.is_file():
        return default
    for attempt in range(ATTEMPTS):
        try:
            return json.loads(path.read_text("utf-8")).get(name, default)
        except (ValueError, AttributeError):
            if attempt < ATTEMPTS - 1:
                time.sleep(PAUSE)
    raise ConfigError(f"{path} cannot be read: repair or remove it, ComfyUI then makes a new one")
