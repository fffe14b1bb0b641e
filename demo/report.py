"""The demo's page: one HTML file with its pictures inside, that needs nothing and says what it does not show."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from seppo_core import SePPOConfig
from seppo_core.views.plots import curves

from . import pictures, studio
from .judges import TOP, Score

OPEN_CARDS = 30
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1b1f}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem 1rem .3rem 0;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
tr+tr{border-top:1px solid #ddd}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(13.5rem,1fr));gap:1rem}
figure{margin:0}figcaption{font-size:.85rem;overflow-wrap:anywhere}
.trio{display:flex;gap:3px}.trio img{width:68px;height:68px;image-rendering:pixelated;border:1px solid #e4e4e4}
.wide{max-width:100%}pre{background:#f6f6f8;padding:1rem;overflow:auto;font-size:.8rem}
.note{color:#555}
"""


@dataclass(frozen=True)
class Findings:
    """Everything one run of the demo found."""

    before: Score
    after: Score
    seconds: float
    worth: dict[str, float]
    """of the judges, on real pictures (studio.judge_real)"""
    names: Sequence[str]
    """the captions judged; the first pictures drawn are theirs, one each"""
    pixels_before: Tensor
    pixels_after: Tensor
    metrics: Sequence[dict[str, Any]]
    config: SePPOConfig


def embedded(image: Image.Image) -> str:
    """The picture as a data address."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def card(name: str, trio: Sequence[Image.Image]) -> str:
    alts = ("before", "after", "a real picture in the winners' style")
    shown = "".join(
        f'<img src="{embedded(picture)}" alt="{alt}" title="{alt}">'
        for picture, alt in zip(trio, alts, strict=True)
    )
    text = html.escape(studio.caption(name))
    return f'<figure><div class="trio">{shown}</div><figcaption>{text}</figcaption></figure>'


def cards(found: Findings) -> str:
    trios = zip(
        pictures.to_images(found.pixels_before[: len(found.names)]),
        pictures.to_images(found.pixels_after[: len(found.names)]),
        studio.real_pictures("openmoji", len(found.names)),
        strict=True,
    )
    made = [card(name, trio) for name, trio in zip(found.names, trios, strict=True)]
    first, rest = "".join(made[:OPEN_CARDS]), "".join(made[OPEN_CARDS:])
    more = (
        f"<details><summary>The other {len(made) - OPEN_CARDS} captions</summary>"
        f'<div class="cards">{rest}</div></details>'
        if rest
        else ""
    )
    return f'<div class="cards">{first}</div>{more}'


def score_rows(found: Findings) -> str:
    before, after = found.before, found.after
    kept = f"{after.content / before.content:.0%} kept" if before.content else ""
    return (
        f'<tr><td>style</td><td class="n">{before.style:.3f}</td><td class="n">{after.style:.3f}'
        f'</td><td class="n">{after.style - before.style:+.3f}</td></tr>'
        f'<tr><td>content (R@{TOP})</td><td class="n">{before.content:.3f}</td>'
        f'<td class="n">{after.content:.3f}</td><td class="n">{kept}</td></tr>'
    )


def page(found: Findings) -> str:
    import json

    config, worth = found.config, found.worth
    count = len(studio.read_names().test)
    loss, reference = config.loss, config.references
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>SePPO demo</title><style>{STYLE}</style>
<h1>A small model, aligned with winning images alone</h1>
<p>The base model draws 32&times;32 emoji from captions. It learned two styles mixed, which no caption names.
SePPO aligned it to winners in one of them. The {len(found.names)} captions judged here are not among the winners.</p>
<table><tr><th></th><th class="n">before</th><th class="n">after</th><th class="n">change</th></tr>{score_rows(found)}</table>
<p><b>Style</b>: mean probability, by a judge that training never saw, that a picture is in the winners' style (a blank picture
counts 0). On real pictures of these captions the judge is right in {worth["style_accuracy"]:.0%} of cases; it gives winners'
style {worth["openmoji"]:.2f} and the other {worth["twemoji"]:.2f} on average, so about {worth["openmoji"]:.2f} is the ceiling.<br>
<b>Content</b>: share of pictures whose own caption is among the {TOP} nearest of {count}, by what these things look like in two
further styles. A guess gets {TOP / count:.3f}; real pictures get {worth["openmoji_content"]:.2f} in the winners' style and
{worth["twemoji_content"]:.2f} in the other.</p>
<p class="note">{found.seconds:.0f} seconds in all, from loading the model to the last picture.</p>
<h2>The same captions from the same noise</h2>
<p>Left before, middle after, right a real picture in the winners' style. The first of {studio.DRAWS} draws, in the
order of the list, nothing picked out.</p>
{cards(found)}
<h2>Training</h2>
<p>{config.steps} optimizer steps of {config.winners_per_step} winners with preset-free settings: criterion
<b>{loss.criterion}</b>, reference <b>{reference.selection}</b>, beta {loss.beta:g}, LoRA rank {config.lora.rank}, learning rate
{config.optimizer.learning_rate:g}. Where they come from: demo/README.md.</p>
<img class="wide" alt="loss, margins and flip rate over the steps" src="{embedded(curves(found.metrics, "Training"))}">
<details><summary>All settings</summary><pre>{html.escape(json.dumps(config.as_dict(), indent=1))}</pre></details>
<h2>What this shows and what not</h2>
<ul><li>The pipeline works end to end on a CPU, and the change carries over to captions that the winners do not cover.</li>
<li>The base has seen both styles, of these captions too: aligning steers what it can already draw. It does not show that a new
style can be learned this way.</li>
<li>One seed, {len(found.names)} captions, {studio.DRAWS} pictures each: differences of a few hundredths are noise. Style rising while content
falls a little is the usual price.</li>
<li>It is a toy of 3.7 million weights. Nothing here speaks for other models, nor for one anchor criterion against another.</li></ul>
<h2>Pictures and licences</h2>
<p>Winners and the real pictures shown: <a href="https://openmoji.org">OpenMoji</a>, CC BY-SA 4.0. The base also learned from
<a href="https://github.com/jdecked/twemoji">Twemoji</a>, CC BY 4.0. The content judge knows
<a href="https://github.com/googlefonts/noto-emoji">Noto Emoji</a> (Apache-2.0) and
<a href="https://github.com/microsoft/fluentui-emoji">Fluent Emoji</a> (MIT). Pictures were resized to 32 pixels.</p>
</html>
"""


def write(path: Path, found: Findings) -> None:
    path.write_text(page(found), "utf-8")
