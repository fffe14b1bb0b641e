"""Where the demo's settings come from: 40 of the 120 winners are held out, their captions judge; test captions stay unseen.

`python -m demo.tune --set optimizer.learning_rate=0.001 --set loss.beta=200` prints one line.
"""

import argparse
import json
import sys

from seppo_core import SePPOConfig
from seppo_core.settings import from_dict, override

from . import judges, run, studio

HELD_OUT = slice(None, None, 3)
"""Every third winner."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", action="append", default=[], metavar="section.name=value")
    parser.add_argument("--steps", type=int, default=run.STEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    winners, texts = studio.read_names().winners, studio.Texts()
    held_out = winners[HELD_OUT]
    values = studio.settings(options.steps, options.seed).as_dict()
    for assignment in options.set:
        override(values, assignment)
    config = from_dict(SePPOConfig, values)
    policy, jury = studio.load_policy(), judges.load()
    dataset = studio.read_dataset(texts, [name for name in winners if name not in held_out])
    asked = [name for name in held_out for _ in range(studio.DRAWS)]
    before, _ = studio.measure(policy, texts, jury, asked, winners)
    run.align(policy, dataset, config)
    after, _ = studio.measure(policy, texts, jury, asked, winners)
    line = {
        "set": options.set,
        "steps": options.steps,
        "style": [round(before.style, 3), round(after.style, 3)],
        "content": [round(before.content, 3), round(after.content, 3)],
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
