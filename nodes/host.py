"""Everything of ComfyUI that is not a node: folders, progress, cancelling, differences between versions."""

import glob
import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image
from server import PromptServer
from torch import Tensor

from ..seppo_core.denoisers.autograd import uncompiled
from ..seppo_core.denoisers.patcher import COMPILED, compiled_patches
from ..seppo_core.denoisers.patcher import uncompiled as uncompiled_clone
from ..seppo_core.errors import ConfigError, ShortageError, UnsupportedModelError
from ..seppo_core.runs.lock import OwnedFolder
from . import user_settings

PREVIEW_SIDE = 512
"""About the longest side in pixels of the pictures shown while a node runs."""


def known_only(function: Callable[..., Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that this version of the host knows (0.3.64 lacks some of today's)."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in settings.items() if name in known}


def schema(**settings: Any) -> io.Schema:
    """A node's schema; search words and the like are dropped where the host knows none."""
    return io.Schema(**known_only(io.Schema, settings))


def input(factory: Callable[..., Any], id: str, **settings: Any) -> Any:
    """An input; `advanced=True` and the like are dropped where the host knows none."""
    return factory(id, **known_only(factory.__init__, settings))


def quoted(text: str) -> str:
    """For messages, which long ones would fill."""
    return repr(text if len(text) <= 100 else text[:100] + "…")


def confined(root: str | Path, relative: str) -> Path:
    """The real path of `relative` below `root`; ConfigError if it leads anywhere else, or no file can have it."""
    base = Path(root).resolve()
    outside = ConfigError(f"{quoted(relative)} must be a path inside {base}")
    if "\0" in relative:
        raise outside
    try:
        path = (base / relative).resolve()
        path.lstat()
    except FileNotFoundError:
        pass
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, or not to be encoded
        raise outside from None
    if not path.is_relative_to(base):
        if Path(os.path.normpath(base / relative)).is_relative_to(base):
            raise ConfigError(
                f"{outside}, but a link leads out of there; put what it leads to there"
            )
        raise outside
    return path


NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u2028-\u202e\ud800-\udfff]|^\.|[. ]$')
DEVICES = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE
)
"""Names that Windows keeps for devices, whatever ending they have."""
LONGEST_NAME = 200
"""In bytes: most file systems take 255, and a number may be appended."""


def plain_name(root: str | Path, name: str) -> Path:
    """What `name` is directly below `root`; ConfigError for anything but a plain name on any system."""
    if not name.strip() or NOT_IN_NAMES.search(name) or DEVICES.fullmatch(name):
        raise ConfigError(
            f"{quoted(name)} is not a usable name: take letters, digits, spaces, '-', '_' and '.', "
            "not '.' first or last, and none that Windows keeps for devices, as CON"
        )
    if len(name.encode()) > LONGEST_NAME:
        raise ConfigError(f"{quoted(name)} is too long a name: take up to {LONGEST_NAME} bytes")
    return confined(root, name)


def confined_name(root: str | Path, name: str) -> Path:
    """As `plain_name`; ConfigError also where a link below it leads out of it."""
    path = plain_name(root, name)
    if link := next(links_out(path), None):
        raise ConfigError(f"{link} is a link that leaves {path}; put the files themselves there")
    return path


def links_out(folder: Path) -> Iterator[Path]:
    """Every link below `folder` that leads out of it."""
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(folder):
                yield path


LOCATIONS = {
    "input": lambda: [folder_paths.get_input_directory()],
    "output": lambda: [folder_paths.get_output_directory()],
    "datasets": lambda: [
        path
        for kind in ("seppo_datasets", "datasets")
        for path in folder_paths.folder_names_and_paths.get(kind, ([],))[0]
    ],
}
"""Where winners may be read from: the host's own folders, and those its extra_model_paths.yaml names."""


def data_path(location: str, name: str) -> Path:
    """The real path of a folder or file in one of a location's folders.

    ConfigError for an empty name, an unknown location, a path that leads elsewhere, or nothing there.
    """
    if location not in list(LOCATIONS):
        raise ConfigError(f"unknown location {location!r}; choose from {list(LOCATIONS)}")
    roots = LOCATIONS[location]()
    if not roots:
        raise ConfigError(
            "this ComfyUI has no folder for datasets; name one under seppo_datasets in its "
            "extra_model_paths.yaml, or choose another location"
        )
    places = " or ".join(map(str, roots))
    name = name.strip()
    if not name:
        raise ConfigError(
            f"name a folder inside {places}, for example 'winners', and put your winning images there"
        )
    for root in roots:
        path = confined(root, name)
        if path.exists():
            return path
        if (Path(root) / name).is_symlink():
            raise ConfigError(f"{name!r} inside {root} is a link that leads to nothing; mend it")
    raise ConfigError(
        f"there is no folder {name!r} inside {places}. {_instead(location, name, roots)}"
    )


NAMED_FOLDERS = 12
"""that a message lists"""


def _instead(location: str, name: str, roots: list[str]) -> str:
    """What to do about a folder that is not there: others, the one of the nearest name first."""
    for other, its_roots in LOCATIONS.items():
        if other != location and any(_is_folder(root, name) for root in its_roots()):
            return f"There is one in {other}: choose location '{other}'"
    parent = name.replace("\\", "/").rpartition("/")[0]
    found = {folder for root in roots for folder in _folders(root, parent)}
    if not found:
        return "Create it and put your winning images there"
    order = sorted(found, key=lambda folder: (-_likeness(name, folder), folder))
    more = f" and {len(order) - NAMED_FOLDERS} more" if len(order) > NAMED_FOLDERS else ""
    there = ", ".join(map(quoted, order[:NAMED_FOLDERS])) + more
    return f"There are: {there}. Take one of these, or create it and put your winning images there"


def _is_folder(root: str, name: str) -> bool:
    try:
        return confined(root, name).is_dir()
    except ConfigError:
        return False


def _folders(root: str, parent: str) -> list[str]:
    """Names, from the root, of the folders in `parent` there; in the root where there is no such one."""
    base = Path(root)
    try:
        place = confined(base, parent) if parent else base
        if not place.is_dir():
            parent, place = "", base
        names = [one.name for one in os.scandir(place) if one.is_dir() and one.name[0] != "."]
    except (ConfigError, OSError):
        return []
    return [f"{parent}/{name}" if parent else name for name in names]


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower()).ratio()


RUN_FOLDER = "seppo"
"""In ComfyUI's output, unless the user's settings name another."""


def output() -> Path:
    return Path(folder_paths.get_output_directory())


def runs_root() -> Path:
    """Where new run directories lie. ConfigError if the settings name no plain folder."""
    name = user_settings.chosen(user_settings.RUN_FOLDER, RUN_FOLDER) or RUN_FOLDER
    if name == RUN_FOLDER:
        return output() / RUN_FOLDER
    try:
        if not isinstance(name, str):
            raise ConfigError(f"it must be a name, got {quoted(str(name))}")
        return plain_name(output(), name)
    except ConfigError as error:
        raise ConfigError(f"Settings > SePPO > Run folder: {error}") from None


def run_files(name: str = "*") -> Iterator[Path]:
    """run.json of the runs of that name in all folders of the output; folders that are links are not looked into."""
    folders = output().iterdir() if output().is_dir() else ()
    for folder in sorted(folders):
        if not folder.is_symlink() or folder.name == RUN_FOLDER:
            yield from folder.glob(f"{name}/run.json")


def runs_roots(name: str) -> list[Path]:
    """Where a run of that name may lie: where new ones do, then wherever earlier settings put one."""
    first = runs_root()
    return [first, *sorted({path.parents[1] for path in run_files(glob.escape(name))} - {first})]


def run_directory(name: str) -> Path:
    """The run directory of that name, whether there is one or not; ConfigError for no plain name."""
    here = confined_name(runs_root(), name)
    if here.exists():
        return here
    return next((confined_name(root, name) for root in runs_roots(name)[1:]), here)


def continued(name: str | None) -> str:
    """How often the runs that one of this name may be, numbered ones too, went on after a stop; of any name for None."""
    begins = "*" if name is None else glob.escape(name)
    numbered = [] if name is None else [f"{begins}_[0-9]*"]
    places = {path.parent for kind in (begins, *numbered) for path in run_files(kind)}
    counts = {place: OwnedFolder(place).record().continued for place in sorted(places)}
    return " ".join(f"{place} {count}" for place, count in counts.items() if count)


SCORERS = "seppo_scorers"
"""Folder of scorers' weights in the models folder; extra_model_paths.yaml may name others under it."""


def scorers_path(name: str) -> Path:
    """The real path of a folder or file of weights in the scorers' folders; where it would lie if it is in none.

    ConfigError if it leads elsewhere. What the user linked inside of it is followed.
    """
    roots = [
        Path(folder_paths.models_dir) / SCORERS,
        *folder_paths.folder_names_and_paths.get(SCORERS, ([],))[0],
    ]
    places = [confined(root, name) for root in roots]
    return next((place for place in places if place.exists()), places[0])


def clip_words() -> Path:
    """Folder of CLIP's tokenizer, which the host brings."""
    return Path(comfy.sd1_clip.__file__).with_name("sd1_tokenizer")


def room_for(size: int) -> torch.device:
    """The device that models run on, after the host made room for so many bytes there."""
    device = comfy.model_management.get_torch_device()
    comfy.model_management.free_memory(size, device)
    return device


def cache_root() -> Path:
    """Where encoded winners lie, for all runs; no run can have its name."""
    return output() / RUN_FOLDER / ".cache"


def run_names() -> list[str]:
    """The runs that are there, in whatever folder, newest first."""
    found = [path.parent for path in run_files()]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return list(dict.fromkeys(path.name for path in found))


def throw_if_interrupted() -> None:
    """Raise the host's own exception if the user pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def progress(total: int) -> comfy.utils.ProgressBar:
    return comfy.utils.ProgressBar(total)


class ItemProgress:
    """Called with (done, total) after every item: moves the node's bar and notices Cancel."""

    def __init__(self) -> None:
        self.bar: comfy.utils.ProgressBar | None = None

    def __call__(self, done: int, total: int) -> None:
        throw_if_interrupted()
        self.bar = self.bar or progress(total)
        self.bar.update_absolute(done, total)


def progress_text(text: str, node_id: str) -> None:
    """A line below the node while it runs (nothing where the host runs without its server)."""
    server = getattr(PromptServer, "instance", None)
    if hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)


def preview_message(image: Image.Image | None) -> tuple[str, Image.Image, int] | None:
    """A picture as the host's progress bar takes it; small ones are enlarged without smoothing."""
    if image is None:
        return None
    factor = max(1, PREVIEW_SIDE // max(image.size))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.NEAREST)
    return ("JPEG", image, max(image.size))


def image(picture: Image.Image) -> Tensor:
    """A Pillow picture as IMAGE: [1, H, W, 3], float32 in 0..1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]


@contextmanager
def gradients_allowed() -> Iterator[None]:
    """Nodes run in inference mode, where nothing can be trained; inside this block they do not."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def with_lora(model: Any, lora: dict[str, Tensor], compiled: bool = True) -> Any:
    """The MODEL with a LoRA on its weights; compiled if it was and `compiled` is true.

    Under an object patch of torch.compile the host finds no weight by its name, so those become its wrapper.
    """
    plain = uncompiled_clone(model)
    with uncompiled(model.model):
        aligned, _ = comfy.sd.load_lora_for_models(plain, None, lora, 1.0, 0)
    known = {key.removesuffix(".lora_up.weight") for key in lora if key.endswith(".lora_up.weight")}
    if not any(f"{name}.weight" in aligned.patches for name in known):
        raise UnsupportedModelError(
            "ComfyUI found none of the LoRA's layers in this MODEL; take nodes that replace or compile parts "
            "of it out of the way to SePPO, and put them behind it"
        )
    if compiled:
        for wrapper in model.get_wrappers(*COMPILED):
            aligned.add_wrapper_with_key(*COMPILED, wrapper)
        if patches := compiled_patches(model):
            from comfy_api.torch_helpers.torch_compile import apply_torch_compile_factory

            aligned.add_wrapper_with_key(*COMPILED, apply_torch_compile_factory(patches))
    return aligned


@contextmanager
def models_leave_if_short() -> Iterator[None]:
    """The host unloads its models after errors of torch's for want of memory; so it does after ours."""
    try:
        yield
    except ShortageError:
        comfy.model_management.unload_all_models()
        raise
