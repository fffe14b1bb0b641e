"""Does it align, against what, at what cost: `python -m benchmarks.alignment` (see docs/benchmarks.md)."""
