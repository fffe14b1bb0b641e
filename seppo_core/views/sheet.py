"""Winning images at a glance: thumbnails with their captions."""

import math
import textwrap
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..data.winners import Winner, Winners
from ..errors import DatasetError

THUMBNAIL = 192
CAPTION_LINES = 3
CAPTION_COLUMNS = 26
FONT_SIZE = 12
LINE_HEIGHT = 17
MARGIN = 10
INK, FAINT, PAPER = (32, 32, 36), (120, 120, 128), (250, 250, 248)


def contact_sheet(winners: Winners, limit: int = 24, columns: int = 6) -> Image.Image:
    """The first `limit` winners as thumbnails with captions and repeats; a last line counts the rest."""
    shown = [winners[index] for index in range(min(limit, len(winners)))]
    columns = min(columns, len(shown))
    cell_width = THUMBNAIL + MARGIN
    cell_height = THUMBNAIL + (CAPTION_LINES + 1) * LINE_HEIGHT
    rows = math.ceil(len(shown) / columns)
    size = (columns * cell_width + MARGIN, rows * cell_height + 2 * MARGIN + LINE_HEIGHT)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, winner in enumerate(shown):
        row, column = divmod(index, columns)
        _draw_cell(sheet, winner, MARGIN + column * cell_width, MARGIN + row * cell_height)
    footer = f"{len(shown)} of {len(winners)} winning images"
    draw.text((MARGIN, size[1] - MARGIN - LINE_HEIGHT), footer, fill=FAINT, font=_font())
    return sheet


@cache
def _font() -> ImageFont.FreeTypeFont:
    """Pillow's own font knows ASCII only; the one matplotlib brings has the European alphabets."""
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, FONT_SIZE)


def _draw_cell(sheet: Image.Image, winner: Winner, left: int, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    thumbnail = _thumbnail(winner)
    inset = ((THUMBNAIL - thumbnail.width) // 2, (THUMBNAIL - thumbnail.height) // 2)
    sheet.paste(thumbnail, (left + inset[0], top + inset[1]))
    caption = winner.caption if winner.repeats == 1 else f"{winner.repeats}x {winner.caption}"
    lines = textwrap.wrap(caption, CAPTION_COLUMNS, max_lines=CAPTION_LINES, placeholder=" ...")
    for index, line in enumerate(lines):
        spot = (left, top + THUMBNAIL + 4 + index * LINE_HEIGHT)
        draw.text(spot, line, fill=INK, font=_font())


def _thumbnail(winner: Winner) -> Image.Image:
    try:
        image = winner.load()
    except DatasetError as error:
        image = Image.new("RGB", (THUMBNAIL, THUMBNAIL), (236, 226, 224))
        text = textwrap.fill(str(error), CAPTION_COLUMNS)
        draw = ImageDraw.Draw(image)
        draw.text((6, 6), text, fill=INK, font=_font())
        return image
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image
