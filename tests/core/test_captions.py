"""Caption files as users of many trainers have them: several lines, none at all, odd encodings and names."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin

from seppo_core.data.captions import LINES
from seppo_core.data.encode import encode
from seppo_core.data.prepare import Preparation
from seppo_core.data.readers import listing, read_winners
from seppo_core.data.wording import Wording, reworded
from seppo_core.errors import ConfigError, DatasetError

TAGS, SENTENCE, LONG = "1girl, hat", "a girl with a hat", "A photo of a girl who wears a hat."
WRAPPED = (
    "A tall woman in a red coat stands at the harbour and looks at\n"
    "the ships. Behind her are warehouses of brick, and gulls sit\n"
    "on their roofs.\n"
)


def draw(path: Path, seed: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = torch.randint(256, (16, 16, 3), generator=torch.Generator().manual_seed(seed))
    Image.fromarray(noise.to(torch.uint8).numpy()).save(path, **options)
    return path


def captioned(path: Path, text: str | bytes, **options) -> Path:
    data = text.encode() if isinstance(text, str) else text
    draw(path, **options).with_suffix(".txt").write_bytes(data)
    return path


def by_graph(prompt: str) -> PngImagePlugin.PngInfo:
    """What A1111 writes into a picture."""
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", f"{prompt}\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1")
    return info


def encoded(winners, **options):
    return encode(
        winners,
        lambda picture: picture.movedim(-1, 0)[:, ::8, ::8].clone(),
        lambda caption: torch.tensor(list(caption.encode())),
        Preparation(16, 8),
        image_identity="vae",
        text_identity="clip",
        **options,
    )


def shares(dataset, draws: int = 600) -> dict[str, float]:
    counts = Counter(dataset.drawn(0, 7, window, "caption", 0).caption for window in range(draws))
    return {text: count / draws for text, count in counts.items()}


def test_of_several_lines_one_is_drawn_each_time_and_the_report_says_so(tmp_path):
    captioned(tmp_path / "a.png", f"{TAGS}\r\n{SENTENCE}\r\n{LONG}\r\n{TAGS}\r\n")
    captioned(tmp_path / "b.png", "one line\n\n", seed=1)
    winners = read_winners(tmp_path)
    assert winners[0].captions() == (TAGS, SENTENCE, LONG)
    assert "2 winning images, 4 different captions" in winners.report()
    assert "1 caption file holds several lines: one is drawn each time" in winners.report()
    drawn = shares(encoded(winners))
    assert drawn.keys() == {TAGS, SENTENCE, LONG}
    # a third each; six standard deviations of 600 draws are 0.115
    assert all(abs(share - 1 / 3) < 0.115 for share in drawn.values())


def test_the_line_depends_on_seed_window_and_place_alone(tmp_path):
    captioned(tmp_path / "a.png", f"{TAGS}\n{SENTENCE}\n{LONG}")
    cache = tmp_path / "cache"
    first, again = (encoded(read_winners(tmp_path / "a.png"), cache=cache) for _ in range(2))
    keys = [
        (seed, window, "caption", place)
        for seed in (1, 2)
        for window in (0, 1)
        for place in range(9)
    ]
    lines = [first.drawn(0, *key).caption for key in keys]
    assert [again.drawn(0, *key).caption for key in reversed(keys)] == lines[::-1]
    assert len({tuple(lines[i : i + 9]) for i in range(0, 36, 9)}) == 4
    for key in keys[:9]:
        example = first.drawn(0, *key)
        assert bytes(example.cond.tolist()).decode() == example.caption
    assert first.identity == again.identity
    (tmp_path / "a.txt").write_text(TAGS)
    assert encoded(read_winners(tmp_path / "a.png")).identity != first.identity


def test_edited_captions_share_the_chance_of_their_line(tmp_path):
    captioned(tmp_path / "a.png", f"red, green, blue, grey\n{SENTENCE}")
    wording = Wording(trigger="sks", shuffle=5, dropout=0.25)
    dataset = encoded(reworded(read_winners(tmp_path), wording))
    drawn = shares(dataset, 1200)
    assert len(drawn) == 6 + 1 + 1
    # 1/4 without, and half of the rest for each line; six standard deviations of 1200 draws are 0.09
    assert abs(drawn[""] - 1 / 4) < 0.09
    assert abs(drawn[f"sks, {SENTENCE}"] - 3 / 8) < 0.09


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (WRAPPED, "joined, as one text"),
        ("A woman in a coat.\n\nShe looks at ships.", "joined, as one text"),
        (f"{LONG * 3}\n{LONG * 3}x.\n{LONG * 3}y.", "one is drawn each time"),
        (f"{SENTENCE * 5}\n{TAGS}", "one is drawn each time"),
    ],
    ids=["wrapped", "paragraphs", "sentences of one length", "a long and a short one"],
)
def test_lines_of_one_text_are_joined_and_others_are_captions(tmp_path, text, told):
    captioned(tmp_path / "a.png", text)
    winners = read_winners(tmp_path)
    assert f"1 caption file holds several lines: {told} (see caption_lines)" in winners.notes
    whole = (" ".join(text.split()),)
    assert winners[0].captions() == (whole if "joined" in told else tuple(text.split("\n")))


BROKEN = "A tall woman in a red coat stands at the harbour and looks at\nthe ships."
ROOFS = "Gulls sit on the roofs of the warehouses of brick behind the\nquay and wait for the fishing boats to come home."
BLIP = "a woman in a red dress stands in front of a tall building\na woman with a hat looks at the camera in front of a house with a garden"
BOORU = "1girl, solo, long hair, blue eyes, red coat, standing, harbour"
SIGHT = "一个穿红色外套的女孩站在港口的石头码头上看着远处的大海和船只，在她身后是一排用红砖砌成的旧仓库，屋顶上停着许多白色的海鸥。"


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        (BROKEN, [BROKEN]),
        (f"{BROKEN}\n{ROOFS}", [f"{BROKEN}\n{ROOFS}"]),
        (f"{BROKEN}\nThe sky is grey.", [f"{BROKEN}\nThe sky is grey."]),
        (f"{TAGS}\n{BROKEN}", [TAGS, BROKEN]),
        (f"{TAGS}\n{BROKEN}\n{SENTENCE}", [TAGS, BROKEN, SENTENCE]),
        (f"{BOORU}\na woman at the quay.", [BOORU, "a woman at the quay."]),
        ("1girl, solo,\nlong hair, blue eyes,\nred coat, hat", None),
        (BLIP, BLIP.split("\n")),
        ("two" + BLIP[1:], ["two" + BLIP.split("\n")[0][1:], BLIP.split("\n")[1]]),
        (BROKEN.lower().strip("."), [BROKEN.lower().strip(".")]),
        (f"A girl.\n{BROKEN.lower()}", ["A girl.", BROKEN.lower()]),
    ],
    ids=[
        *("two lines", "two paragraphs", "a paragraph and a sentence", "tags first", "in between"),
        *("tags and a sentence", "tags in lines", "all begin small", "of two lengths", "no end"),
        "a small paragraph last",
    ],
)
def test_a_wrapped_paragraph_is_never_drawn_in_halves(tmp_path, text, captions):
    captioned(tmp_path / "a.png", text)
    expected = tuple(" ".join(one.split()) for one in captions or [text])
    assert read_winners(tmp_path)[0].captions() == expected


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        (f"{SIGHT}\n{SIGHT[:-3]}！\n{SIGHT[2:]}", None),
        (f"{SIGHT[:-5]}\n{SIGHT[2:-1]}\n{SIGHT[1:-9]}", None),
        ("女孩站在港口。\n她看着船。\n天是灰色的。\n海鸥在飞。", None),
        (f"{SIGHT[:28]}\n{SIGHT[28:55]}\n{SIGHT[55:]}", [SIGHT]),
        ("赤いコートの女の子\n\n港に立っている", ["赤いコートの女の子港に立っている"]),
        ("1女孩\n独奏\n长发\n蓝眼睛", ["1女孩, 独奏, 长发, 蓝眼睛"]),
    ],
    ids=["sentences", "no full stops", "short sentences", "wrapped", "paragraphs", "tags"],
)
def test_chinese_and_japanese_lines_are_told_apart_without_spaces(tmp_path, text, captions):
    captioned(tmp_path / "a.png", text)
    assert read_winners(tmp_path)[0].captions() == tuple(captions or text.split("\n"))


@pytest.mark.parametrize(
    ("text", "is_list"),
    [
        ("1girl\nsolo\nlong hair\nblue eyes", True),
        ("1girl,\nsolo,\nlong hair,\nblue eyes,", True),
        ("1girl\n^_^\n?\nbocchi the rock!\n\nk-on!", True),
        ("\n".join([*"abcdefghi", "series:the legend of zelda: breath of the wild"]), True),
        ("1girl\nsolo\nlong hair", False),
        ("1girl\nsolo\nlong hair\na girl who stands at the harbour", False),
        ("1girl, solo\nlong hair\nhat\ncoat", False),
        ("A red fox.\nA fox in snow.\nA fox at night.\nFox!", False),
    ],
    ids=["tags", "commas", "faces", "a title", "three", "a sentence", "a list", "sentences"],
)
def test_one_tag_a_line_is_one_caption(tmp_path, text, is_list):
    captioned(tmp_path / "a.png", text)
    lines = [line for line in text.split("\n") if line]
    tags = (", ".join(line.rstrip(",") for line in lines),)
    for choice in ("auto", "joined"):
        winners = read_winners(tmp_path, caption_lines=choice)
        assert (winners[0].captions() == tags) is is_list
        assert ("several lines: joined, as tags" in winners.report()) is is_list
    drawn = read_winners(tmp_path, caption_lines="one is drawn")
    assert drawn[0].captions() == tuple(lines)


def test_of_very_many_lines_the_first_are_captions_and_the_report_says_so(tmp_path):
    every = [f"A photo of a girl who wears hat number {number}." for number in range(21)]
    captioned(tmp_path / "a.png", "\n".join(every))
    for choice in ("auto", "one is drawn"):
        winners = read_winners(tmp_path, caption_lines=choice)
        assert winners[0].captions() == tuple(every[:20])
        assert "several lines: one of the first 20 is drawn each time" in winners.report()
    assert read_winners(tmp_path, caption_lines="joined")[0].captions() == (" ".join(every),)


@pytest.mark.parametrize(
    ("choice", "captions"),
    [
        ("one is drawn", tuple(WRAPPED.strip().split("\n"))),
        ("joined", (" ".join(WRAPPED.split()),)),
        ("first", (WRAPPED.split("\n")[0],)),
    ],
)
def test_the_user_may_say_what_becomes_of_lines(tmp_path, choice, captions):
    captioned(tmp_path / "a.png", WRAPPED)
    assert read_winners(tmp_path, caption_lines=choice)[0].captions() == captions
    with pytest.raises(ConfigError, match="unknown caption_lines 'all'; choose from .*joined"):
        read_winners(tmp_path, caption_lines="all")
    assert choice in LINES


def test_an_empty_caption_file_is_told_from_none_and_no_prompt_overrules_it(tmp_path):
    for name in ("a", "b", "c"):
        draw(tmp_path / f"{name}.png", pnginfo=by_graph("a fox"))
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "b.json").write_text(json.dumps({"caption": "", "width": 16}))
    (tmp_path / "c.json").write_text(json.dumps({"width": 16}))
    draw(tmp_path / "5_red bird" / "d.png").with_suffix(".txt").write_bytes(b"\xef\xbb\xbf")
    winners = read_winners(tmp_path)
    assert [(winner.name, winner.caption) for winner in winners] == [("c.png", "a fox")]
    assert {item.name for item in winners.left_out} == {"a.png", "b.png", "5_red bird/d.png"}
    for item in winners.left_out:
        assert item.reason.startswith("its caption is empty. Write into it")
        assert "dropout to 1" in item.reason
    for_all = read_winners(tmp_path, caption="anything")
    assert [winner.caption for winner in for_all].count("anything") == 3
    dataset = encoded(reworded(for_all, Wording(dropout=1)))
    assert {dataset.drawn(0, window).caption for window in range(20)} == {""}


@pytest.mark.parametrize(
    ("values", "caption"),
    [
        ({"title": "IMG_1.jpg", "description": "", "url": "https://photos"}, "a fox"),
        ({"prompt": "", "tags": []}, "a fox"),
        ({"caption": {"description": ""}}, "a fox"),
        ({"text": "", "tags": ["red", "bird"]}, "red, bird"),
        ({"text": " "}, None),
        ({"caption": "", "description": ""}, None),
        ("", None),
    ],
)
def test_only_an_empty_caption_or_text_in_json_says_that_there_is_none(tmp_path, values, caption):
    draw(tmp_path / "a.png", pnginfo=by_graph("a fox")).with_suffix(".json").write_text(
        json.dumps(values)
    )
    draw(tmp_path / "b.png", pnginfo=by_graph("a fox"), seed=1)
    winners = read_winners(tmp_path)
    found = {winner.name: winner.caption for winner in winners}
    assert found == {"b.png": "a fox"} | ({"a.png": caption} if caption else {})
    assert [item.name for item in winners.left_out] == ([] if caption else ["a.png"])


def test_an_empty_cell_of_a_table_captions_nothing_unless_it_is_caption_or_text(tmp_path):
    for seed, name in enumerate(("a", "b", "c")):
        draw(tmp_path / f"{name}.png", pnginfo=by_graph("a fox"), seed=seed)
    rows = "file_name,description,text\na.png,a bird,\nb.png,,\n"
    (tmp_path / "metadata.csv").write_text(rows)
    winners = read_winners(tmp_path)
    assert {winner.name: winner.caption for winner in winners} == {
        "a.png": "a bird",
        "c.png": "a fox",
    }
    assert winners.left_out[0].reason.startswith("its caption is empty")
    (tmp_path / "metadata.csv").write_text(rows.replace(",text", ",prompt"))
    assert [winner.caption for winner in read_winners(tmp_path)] == ["a bird", "a fox", "a fox"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
@pytest.mark.parametrize("text", ["a dog", "ein Hund, Füße", "红色狐狸, 1girl\n"])
def test_captions_and_tables_are_read_in_every_unicode(tmp_path, encoding, text):
    captioned(tmp_path / "a.png", text.encode(encoding))
    draw(tmp_path / "b.png", seed=1)
    row = json.dumps({"file_name": "b.png", "text": text}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_bytes(row.encode(encoding))
    assert [winner.caption for winner in read_winners(tmp_path)] == [text.strip()] * 2


@pytest.mark.parametrize(
    "data",
    [
        b"a woman\x92s hat",
        "红色".encode("gbk"),
        "a dog".encode("utf-32-le"),
        b"a fox\0",
        b"\x89PNG\0\0\0\1\0\2",
    ],
    ids=["Windows-1252", "GBK", "UTF-32 without its mark", "a zero", "no text"],
)
def test_captions_in_other_encodings_are_named(tmp_path, data):
    captioned(tmp_path / "a.png", data)
    with pytest.raises(DatasetError, match=r"a\.png: its caption file is not UTF-8 text; save it"):
        read_winners(tmp_path)


def test_caption_files_of_odd_names_are_read_or_named(tmp_path):
    names = ("a.Txt", "b.png.txt", "c.CAPTION", "d.PNG.Json", "e.txt.txt", "f .txt", "g.text")
    for seed, name in enumerate(names):
        draw(tmp_path / f"{name[0]}.png", seed=seed)
        (tmp_path / name).write_text(f'"{name}"' if "Json" in name else name)
    (tmp_path / "d.png").rename(tmp_path / "d.PNG")
    winners = read_winners(tmp_path)
    assert {winner.name: winner.caption for winner in winners} == {
        **{"a.png": "a.Txt", "b.png": "b.png.txt", "c.png": "c.CAPTION", "d.PNG": "d.PNG.Json"}
    }
    assert winners.notes == [
        "not for reader 'folder': 1 .text",
        "e.txt.txt, f .txt: captions nothing, for no file of its name lies beside it",
    ]
    with pytest.raises(DatasetError, match="f .txt: captions nothing"):
        read_winners(tmp_path, caption="one for all", strict=True)


def test_listing_of_one_picture_holds_its_caption_file_under_any_name(tmp_path):
    for name in ("a.png", "a.Txt", "a.png.JSON", "b.txt"):
        (tmp_path / name).touch()
    assert [name for name, _, _ in listing(tmp_path / "a.png")] == ["a.Txt", "a.png", "a.png.JSON"]


@pytest.mark.parametrize(
    "name", ["reg", "Reg", "regularization", "reg_images", "regularisation images"]
)
def test_kohyas_regularization_images_are_not_trained_on(tmp_path, name):
    captioned(tmp_path / "img" / "10_sks girl" / "a.png", "sks girl")
    captioned(tmp_path / name / "1_girl" / "b.png", "a girl")
    captioned(tmp_path / name / "c.png", "a girl")
    captioned(tmp_path / "regina" / "d.png", "regina")
    (tmp_path / "metadata.csv").write_text(f"file_name,text\n{name}/c.png,a girl\n")
    winners = read_winners(tmp_path, strict=True)
    assert [(winner.caption, winner.repeats) for winner in winners] == [
        ("sks girl", 10),
        ("regina", 1),
    ]
    assert winners.notes[0].startswith(f"{name}: 2 in there are not read, for kohya's trainer")
    assert len(read_winners(tmp_path / name)) == 2  # asked for by name


def test_a_folder_of_regularization_images_alone_says_why_nothing_is_read(tmp_path):
    captioned(tmp_path / "reg" / "a.png", "a girl")
    with pytest.raises(DatasetError, match="no usable image.*\n  reg: 1 in there are not read"):
        read_winners(tmp_path)


def test_a_caption_behind_a_link_is_named_as_a_link(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("secret")
    for seed, name in enumerate("ab"):
        draw(tmp_path / "w" / f"{name}.png", seed=seed)
    (tmp_path / "w" / "a.txt").symlink_to(outside)
    (tmp_path / "w" / "b.txt").symlink_to("nowhere.txt")
    with pytest.raises(DatasetError) as told:
        read_winners(tmp_path / "w")
    assert "a.png: a.txt beside it is a link to a file outside the folder" in str(told.value)
    assert "b.png: b.txt beside it is a link that leads to no file" in str(told.value)


@pytest.mark.parametrize("depth", [10, 900, 5000, 100_000])
def test_captions_within_captions_are_not_looked_for_without_end(tmp_path, depth):
    """Python's own reader of JSON gives up at some depth only."""
    draw(tmp_path / "a.png")
    (tmp_path / "a.json").write_text('{"caption":' * depth + '"deep"' + "}" * depth)
    (tmp_path / "b.txt").write_text("b")
    draw(tmp_path / "b.png")
    winners = read_winners(tmp_path)
    assert [winner.caption for winner in winners] == ["b"]
    assert [item.name for item in winners.left_out] == ["a.png"]
