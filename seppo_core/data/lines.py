"""What the lines of a caption file are: one text, tags, or captions of one picture."""

import re
from collections.abc import Sequence
from itertools import pairwise

WRAPPED_AT = 50
"""Texts are wrapped at this width or a larger one, in columns."""

FEWEST_TAGS = 4
TAG_WORDS = 4
"""One line in ten may be no such tag: titles are longer."""

COMMAS = ",，、"
WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
"""Chinese and Japanese characters: two columns each, and no space between words."""
IS_WIDE = re.compile(f"[{WIDE}]")
WORD = re.compile(rf"[{WIDE}]{{1,2}}|[^\s{WIDE}]+")
SENTENCE_END = re.compile(r"[.!?。！？…．][\"'”’」』)）\]]*$")


def are_tags(lines: Sequence[str]) -> bool:
    """Whether there is one tag a line, as gallery-dl and Hydrus write them."""
    others = sum(not _is_tag(line) for line in lines)
    return len(lines) >= FEWEST_TAGS and 10 * others <= len(lines)


def as_tags(lines: Sequence[str]) -> str:
    return ", ".join(_without_comma(line) for line in lines)


def _is_tag(line: str) -> bool:
    """A few words and no sentence. Faces such as `?` and titles such as `k-on!` and `love live!` are tags."""
    line = _without_comma(line)
    if _parts(line) != [line] or len(WORD.findall(line)) > TAG_WORDS:
        return False
    if " " not in line and not IS_WIDE.search(line):
        return True
    is_title = line[0].islower() and line.endswith(("!", "?"))
    return is_title or not SENTENCE_END.search(line)


def _without_comma(line: str) -> str:
    return line.rstrip(COMMAS + " ") or line


def _parts(line: str) -> list[str]:
    return re.split(f"[{COMMAS}]", line)


def run_on(lines: Sequence[str]) -> str:
    """Lines as one, with a space between words where the language has any."""
    text = ""
    for line in filter(None, lines):
        wide = text and IS_WIDE.match(text[-1]) and IS_WIDE.match(line)
        text += line if wide or not text else f" {line}"
    return text


def texts_of(lines: Sequence[str]) -> list[str]:
    """The texts that lines are: those with an empty one between are one text, wrapped ones are joined.

    Where a wrapped paragraph comes first and none but paragraphs and sentences follow, all are one text.
    """
    listed = len(lines) > 2 and all(line.endswith(tuple(COMMAS)) for line in lines[:-1])
    if listed or not all(lines):
        return [run_on(lines)]
    width = max(map(_columns, lines))
    runs = [[lines[0]]]
    for line, after in pairwise(lines):
        if _goes_on(line, after) or _had_no_room(line, after, width):
            runs[-1].append(after)
        else:
            runs.append([after])
    found = [(run, _is_wrapped(run, width)) for run in runs]
    if found[0][1] and all(one or all(map(SENTENCE_END.search, run)) for run, one in found):
        return [run_on(lines)]
    return [text for run, one in found for text in ([run_on(run)] if one else run)]


def _is_wrapped(run: Sequence[str], width: int) -> bool:
    """Whether a run of lines, of which each goes on or had no room, is one paragraph.

    A small letter says little where the first line begins with one as well and nothing ends a sentence, as in
    captions of BLIP, which mostly begin with the same word.
    """
    pairs = [*pairwise(run)]
    if all(map(SENTENCE_END.search, run)):
        return False
    if len(run) < 3 and not any(_goes_on(*pair) for pair in pairs):
        return False
    if run[0][0].isupper() or SENTENCE_END.search(run[-1]):
        return True
    same_start = any(line.split()[0] == run[0].split()[0] for line in run[1:])
    return not same_start and all(_had_no_room(*pair, width) for pair in pairs)


def _goes_on(line: str, after: str) -> bool:
    """Whether a long line breaks off within a sentence; a list of tags before a sentence does not."""
    long = _columns(line) >= WRAPPED_AT and not SENTENCE_END.search(line)
    return long and after[0].islower() and (not _lists(line) or _lists(after))


def _had_no_room(line: str, after: str, width: int) -> bool:
    first = after[0] if IS_WIDE.match(after) else after.split()[0]
    return width >= WRAPPED_AT and _columns(line) + _columns(first) >= width


def _lists(line: str) -> bool:
    """Whether it is a list of tags."""
    parts = _parts(_without_comma(line))
    return len(parts) > 2 and all(len(WORD.findall(part)) <= TAG_WORDS for part in parts)


def _columns(text: str) -> int:
    return len(text) + len(IS_WIDE.findall(text))
