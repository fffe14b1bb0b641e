"""How often an epoch shows each winner, in data of many proportions: `python benchmarks/shares.py`.

Fifty made-up picture sizes, half of them of cameras' and phones' proportions and half at random, 900 to 3000 pixels long, as
"keep aspect" and "buckets" prepare them. Copies are places of a batch that hold a picture which that batch has already.
"""

import random
from collections import Counter

from seppo_core.data.prepare import MODES
from seppo_core.training.batch import BatchPlan, of_one_shape

COUNT, BATCH, EPOCHS = 50, 4, 20
COMMON = (1, 5 / 4, 4 / 3, 3 / 2, 16 / 9, 19.5 / 9)
MODELS = {"SD 1.5, 512 px": (512, 64), "SDXL, 1024 px": (1024, 32), "Flux, 1024 px": (1024, 16)}
"""resolution, and what the sides are multiples of"""


def sources() -> list[tuple[int, int]]:
    chance = random.Random(0)
    found = []
    for number in range(COUNT):
        ratio = chance.choice(COMMON) if number % 2 else chance.uniform(1, 3)
        sides = [longer := chance.randint(900, 3000), round(longer / ratio)]
        chance.shuffle(sides)
        found.append((sides[0], sides[1]))
    return found


def line(name: str, mode: str, resolution: int, multiple: int) -> str:
    shapes = [MODES[mode](size, resolution, multiple) for size in sources()]
    plan = BatchPlan(shapes, BATCH, seed=0)
    batches = [plan.batch(index) for index in range(plan.per_epoch * EPOCHS)]
    seen = Counter(position for batch in batches for position in batch)
    copies = sum(len(batch) - len(set(batch)) for batch in batches) / seen.total()
    low, high = (pick(seen.values()) * COUNT / seen.total() - 1 for pick in (min, max))
    forwards = sum(len(of_one_shape([shapes[i] for i in batch], BATCH)) for batch in batches)
    return (
        f"{name:15} {mode:12} {len(set(shapes)):2} sizes: {copies:.0%} of places are copies, shares lie "
        f"{low:+.0%} to {high:+.0%} from 1/{COUNT}, {forwards / len(batches):.1f} forwards a step"
    )


def main() -> None:
    for name, (resolution, multiple) in MODELS.items():
        for mode in ("keep aspect", "buckets"):
            print(line(name, mode, resolution, multiple))


if __name__ == "__main__":
    main()
