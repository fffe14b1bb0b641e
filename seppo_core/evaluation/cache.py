"""Plain values by name in one JSON file with a checksum: scores, and hashes of weights."""

import json
import logging
from pathlib import Path
from typing import Any

from ..files import atomic, is_whole, sealed

LARGEST = 2**27
"""Bytes; about a million scores. A larger file is begun anew."""

log = logging.getLogger(__name__)


class JsonCache:
    """The values of one file. Processes may share it: the last to save wins, the others' are found again.

    A cache that cannot be read or written costs time and no result, so that is told in the log alone.
    """

    def __init__(self, path: Path, kind: type) -> None:
        self.path = path
        self.values: dict[str, Any] = _read(path, kind)
        self._known = len(self.values)

    def save(self) -> None:
        """Write the file if there are more values than it holds."""
        if len(self.values) == self._known:
            return
        try:
            with atomic(self.path) as temporary:
                temporary.write_text(json.dumps(sealed({"values": self.values})), encoding="utf-8")
            self._known = len(self.values)
        except OSError as error:
            log.warning("%s cannot be kept (%s); it is computed again next time", self.path, error)


def _read(path: Path, kind: type) -> dict[str, Any]:
    """What `JsonCache.save` wrote; nothing if there is no such file, or another one."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("is too large")
        about = json.loads(path.read_text(encoding="utf-8"))
        if type(about) is not dict or not is_whole(about) or type(about.get("values")) is not dict:
            raise ValueError("was changed")
        if not all(type(value) is kind for value in about["values"].values()):
            raise ValueError("holds values of another kind")
        return about["values"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s %s; what it held is computed again", path, error)
        return {}
