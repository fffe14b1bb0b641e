"""Makes the helper modules that lie beside the tests importable, without putting the pack's root on sys.path."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("core", "hosts", "reliability")]
