"""The gallery's core: lists of pictures, what they tell, small copies, and sets that lose no mark."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from seppo_core.data.captions import Reading
from seppo_core.errors import ConfigError, DatasetError
from seppo_core.gallery.index import Index
from seppo_core.gallery.picked import read_picked, state_of
from seppo_core.gallery.places import listing, located
from seppo_core.gallery.sets import (
    SUFFIX,
    Change,
    PictureSet,
    change_set,
    changes_from,
    read_set,
    set_names,
)
from seppo_core.gallery.thumbnails import thumbnail, thumbnail_name, tidy

AGE = 1_700_000_000


def draw(path: Path, caption: str = "", prompt: str = "", age: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = PngImagePlugin.PngInfo()
    if prompt:
        about.add_text("parameters", f"{prompt}\nSteps: 4, Sampler: Euler, Seed: 7, Model: thin")
    Image.new("RGB", (300, 60), (len(path.name) * 9 % 255, 80, 90)).save(path, pnginfo=about)
    if caption:
        path.with_suffix(".txt").write_text(caption, "utf-8")
    os.utime(path, (AGE - age, AGE - age))
    return path


@pytest.fixture
def roots(tmp_path) -> dict[str, Path]:
    for name in ("output", "input"):
        (tmp_path / name).mkdir()
    return {name: tmp_path / name for name in ("output", "input")}


# Lists and addresses


def test_pictures_are_listed_newest_first_and_nothing_else(roots, tmp_path):
    out = roots["output"]
    draw(out / "old.png", age=50)
    draw(out / "day 1" / "new.webp", caption="no picture itself")
    for hidden in (".cache/a.png", ".b.png"):
        draw(out / hidden)
    (out / "clip.mp4").write_bytes(b"x")
    draw(tmp_path / "away.png")
    (out / "link.png").symlink_to(tmp_path / "away.png")
    (out / "linked").symlink_to(tmp_path, target_is_directory=True)
    assert [row.name for row in listing(out)] == ["day 1/new.webp", "old.png"]
    assert listing(out)[1].mtime_ns == (AGE - 50) * 10**9
    assert listing(tmp_path / "none") == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no names that are no text")
def test_names_that_no_address_can_hold_are_passed_over(roots):
    os.close(os.open(os.fsencode(roots["output"]) + b"/\xff.png", os.O_CREAT | os.O_WRONLY))
    assert listing(roots["output"]) == []


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            "output",
            "output/",
            "temp/a.png",
            "output/../secret.png",
            "output/x/../../secret.png",
        ),
        *("output//secret.png", "output/.hidden/a.png", "output/.a.png", "../secret.png"),
        *("output/a.txt", "output/a\0.png", "output/\ud800.png", "output/" + "a/" * 5000 + "b.png"),
        *("output/link.png", "output/linked/secret.png", "output/folder.png", "output/none.png"),
    ],
)
def test_an_address_leads_to_pictures_of_its_folder_alone(roots, tmp_path, address):
    out = roots["output"]
    draw(tmp_path / "secret.png")
    (out / "link.png").symlink_to(tmp_path / "secret.png")
    (out / "linked").symlink_to(tmp_path, target_is_directory=True)
    (out / "folder.png").mkdir()
    for name in ("a.txt", ".a.png"):
        (out / name).write_text("x")
    draw(out / ".hidden" / "a.png")
    with pytest.raises(DatasetError, match="address|leads out|no such file"):
        located(roots, address)


def test_absolute_paths_are_no_addresses(roots, tmp_path):
    secret = draw(tmp_path / "secret.png")
    for address in (str(secret), f"output/{secret}", f"output{secret}"):
        with pytest.raises(DatasetError):
            located(roots, address)


# Sets


def test_marks_are_kept_in_the_order_they_were_made(tmp_path):
    file = tmp_path / f"mine{SUFFIX}"
    change_set(file, Change(add=("output/b.png", "output/a.png")))
    change_set(file, Change(add=("output/c.png", "output/b.png"), remove=("output/a.png",)))
    assert read_set(file).marked == ("output/b.png", "output/c.png")
    assert set_names(tmp_path) == ["mine"]


def test_several_changes_apply_in_their_order(tmp_path):
    file = tmp_path / f"mine{SUFFIX}"
    changes = (Change(choose=(("a", "b"),)), Change(remove=("a",)), Change(add=("c",)))
    assert change_set(file, *changes) == PictureSet(("c",))


def test_a_set_that_is_left_empty_has_no_file(tmp_path):
    file = tmp_path / f"mine{SUFFIX}"
    change_set(file, Change(add=("output/a.png",)))
    assert change_set(file, Change(remove=("output/a.png",))) == PictureSet()
    assert not file.exists() and set_names(tmp_path) == [] and read_set(file) == PictureSet()


def test_a_picture_wins_if_it_won_its_last_comparison():
    became = Change(choose=(("a", "b"), ("c", "a"), ("d", "e"))).applied(PictureSet())
    assert became.marked == ("c", "d")
    assert became.beaten == {"a": "b", "c": "a", "d": "e"}


def test_a_new_comparison_of_two_replaces_the_old_one():
    first = Change(choose=(("a", "b"),)).applied(PictureSet())
    assert Change(choose=(("b", "a"),)).applied(first).choices == (("b", "a"),)
    assert Change(retract=(("b", "a"),)).applied(first) == PictureSet()


def test_a_mark_that_is_taken_away_takes_its_victories_along():
    first = Change(add=("a",), choose=(("a", "b"), ("c", "a"))).applied(PictureSet())
    assert first.marked == ("a", "c")
    assert Change(remove=("a",)).applied(first) == PictureSet(choices=(("c", "a"),))


def test_no_mark_is_lost_when_many_change_one_set_at_once(tmp_path):
    file = tmp_path / f"mine{SUFFIX}"

    def mark(who: int) -> None:
        for number in range(10):
            change_set(file, Change(add=(f"output/{who}-{number}.png",)))

    threads = [threading.Thread(target=mark, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_set(file).marked) == 40


@pytest.mark.parametrize(
    "values",
    [
        *(
            None,
            [[]],
            "x",
            {"mark": []},
            {"add": "output/a.png"},
            {"add": [1]},
            {"add": ["a" * 3000]},
        ),
        *(
            {"choose": [["a"]]},
            {"choose": [["a", "a"]]},
            {"choose": ["ab"]},
            {"retract": {"a": "b"}},
        ),
    ],
)
def test_a_change_of_another_shape_is_refused(values):
    with pytest.raises(ConfigError, match="expected a"):
        changes_from(values)


def test_a_change_is_read_from_json():
    values = {"add": ["a"], "remove": ["b"], "choose": [["c", "d"]], "retract": [["e", "f"]]}
    expected = Change(remove=("b",), add=("a",), retract=(("e", "f"),), choose=(("c", "d"),))
    assert changes_from(values) == [expected]
    assert changes_from([{"add": ["a"]}, {"remove": ["a"]}]) == [Change(add=("a",)), Change(("a",))]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"by_hand": 3}', "[" * 99_999, '{"by_hand": []}'])
def test_a_damaged_set_is_told_and_stays_as_it_is(tmp_path, text):
    file = tmp_path / f"mine{SUFFIX}"
    file.write_text(text, "utf-8")
    for use in (read_set, lambda path: change_set(path, Change(add=("a",)))):
        with pytest.raises(DatasetError, match="is no set of pictures"):
            use(file)
    assert file.read_text("utf-8") == text


def test_a_set_has_a_limit(tmp_path):
    file = tmp_path / f"mine{SUFFIX}"
    with pytest.raises(DatasetError, match="20,000"):
        change_set(file, Change(add=tuple(map(str, range(20_001)))))
    assert not file.exists()


# Winners of a set


def test_winners_of_a_set_have_captions_from_beside_within_or_the_node(roots):
    draw(roots["output"] / "a.png", caption="from beside")
    draw(roots["output"] / "b" / "b.png", prompt="from within")
    draw(roots["input"] / "c.png")
    (roots["input"] / "metadata.csv").write_text("file_name,text\nd.png,from the table\n")
    draw(roots["input"] / "d.png")
    draw(roots["input"] / "e" / "e.png")
    (roots["input"] / "metadata.jsonl").write_text('{"file_name": "e/e.png", "text": "above"}\n')
    marks = ("input/e/e.png", "input/d.png", "output/b/b.png", "output/a.png", "input/c.png")
    winners = read_picked("mine", PictureSet(marks), roots, Reading(caption="given"))
    assert [(w.name, w.caption) for w in winners] == [
        ("input/e/e.png", "above"),
        ("input/d.png", "from the table"),
        ("output/b/b.png", "from within"),
        ("output/a.png", "from beside"),
        ("input/c.png", "given"),
    ]
    assert winners[2].about.model == "thin" and winners[0].load().size == (300, 60)


def test_pictures_that_are_gone_are_left_out_by_name(roots):
    draw(roots["output"] / "a.png", caption="here")
    (roots["output"] / "broken.png").write_bytes(b"no picture")
    marks = ("output/gone.png", "output/a.png", "output/broken.png", "temp/x.png")
    winners = read_picked("mine", PictureSet(marks), roots, Reading())
    assert [winner.name for winner in winners] == ["output/a.png"]
    assert [item.name for item in winners.left_out] == [marks[0], marks[2], marks[3]]
    assert "output/gone.png: there is no such file any more" in winners.report()
    with pytest.raises(DatasetError, match="3 cannot be used"):
        read_picked("mine", PictureSet(marks), roots, Reading(strict=True))
    with pytest.raises(DatasetError, match="set 'mine': no usable image"):
        read_picked("mine", PictureSet(marks[:1]), roots, Reading())


def test_losing_images_come_along_if_every_winner_has_one(roots):
    for name in "abcd":
        draw(roots["output"] / f"{name}.png", caption=name)
    pairs = tuple((f"output/{one}.png", f"output/{other}.png") for one, other in ("ab", "cd"))
    winners = read_picked("mine", PictureSet(choices=pairs), roots, Reading())
    assert [(w.name, w.losing.name) for w in winners] == list(pairs)
    mixed = read_picked("mine", PictureSet(("output/d.png",), pairs[:1]), roots, Reading())
    assert [winner.losing for winner in mixed] == [None, None]
    assert "1 of 2 were found better" in mixed.report()


def test_the_state_of_a_set_changes_with_its_files(roots):
    path = draw(roots["output"] / "a.png", caption="one")
    chosen = PictureSet(("output/a.png", "output/gone.png"))
    before = state_of(chosen, roots)
    assert before == state_of(chosen, roots)
    path.with_suffix(".txt").write_text("another", "utf-8")
    after = state_of(chosen, roots)
    (roots["output"] / "metadata.csv").write_text("file_name,text\na.png,of a table\n")
    third = state_of(chosen, roots)
    path.write_bytes(b"x")
    assert len({str(state) for state in (before, after, third, state_of(chosen, roots))}) == 4


# What pictures tell


def told(index: Index, seconds: float = 60.0) -> dict[str, dict]:
    rows, after, left = {}, 0, 1
    while left:
        answer = index.answer(index.edition, after, seconds)
        rows |= {row["name"]: row for row in answer.rows}
        after, left = answer.after, answer.left
    return rows


def test_the_index_tells_prompt_model_and_size(roots, tmp_path):
    draw(roots["output"] / "a.png", prompt="a red fox")
    draw(roots["output"] / "b.png")
    (roots["output"] / "c.png").write_bytes(b"no picture")
    rows = told(Index(roots["output"], tmp_path / "index.jsonl"))
    a = rows["a.png"]
    assert (a["prompt"], a["model"], a["seed"], a["width"]) == ("a red fox", "thin", 7, 300)
    assert "carries no text" in rows["b.png"]["reason"] and "broken" not in rows["b.png"]
    assert "not a PNG" in rows["c.png"]["reason"] and rows["c.png"]["broken"]


def test_the_index_reads_a_little_at_a_time_and_says_how_much_is_left(roots, tmp_path):
    for number in range(5):
        draw(roots["output"] / f"{number}.png", prompt="x", age=number)
    index = Index(roots["output"], tmp_path / "index.jsonl")
    answer = index.answer("", 0, seconds=-1.0)
    assert (answer.rows, answer.left, answer.after) == ([], 5, 0)
    assert list(told(index)) == [f"{number}.png" for number in range(5)]
    again = index.answer(index.edition, 5, 1.0)
    assert (again.rows, again.left) == ([], 0)
    assert len(index.answer("another edition", 5, 1.0).rows) == 5


def test_the_index_is_remembered_and_reads_only_what_changed(roots, tmp_path):
    file = tmp_path / "index.jsonl"
    for name in ("a.png", "b.png", "gone.png"):
        draw(roots["output"] / name, prompt="first")
    told(Index(roots["output"], file))
    lines = file.read_text("utf-8").splitlines()
    assert len(lines) == 3
    file.write_text("\n".join([*lines, lines[0][:40], "[]", '{"name": 1}']) + "\n", "utf-8")
    draw(roots["output"] / "b.png", prompt="second", age=9)
    (roots["output"] / "gone.png").unlink()
    index = Index(roots["output"], file)
    assert {name: row["prompt"] for name, row in told(index).items()} == {
        "a.png": "first",
        "b.png": "second",
    }
    assert len(file.read_text("utf-8").splitlines()) == 7
    draw(roots["output"] / "new.png", prompt="third")
    assert [row.name for row in index.pictures()][-1] == "b.png"
    assert told(index)["new.png"]["prompt"] == "third"


def test_a_disk_that_refuses_takes_away_no_prompt_but_the_memory_of_it(roots, tmp_path, caplog):
    (tmp_path / "taken").write_text("a file where the folder should be")
    draw(roots["output"] / "a.png", prompt="a red fox")
    index = Index(roots["output"], tmp_path / "taken" / "index.jsonl")
    assert told(index)["a.png"]["prompt"] == "a red fox"
    assert "could not be written" in caplog.text
    draw(roots["output"] / "b.png", prompt="a heron")
    index.pictures()
    assert told(index)["b.png"]["prompt"] == "a heron"


def test_an_index_of_many_pictures_that_are_gone_is_written_anew(roots, tmp_path):
    file = tmp_path / "index.jsonl"
    row = {"name": "gone.png", "mtime_ns": 1, "size": 2, "prompt": "x"}
    file.write_text("".join(json.dumps(row | {"name": f"{i}.png"}) + "\n" for i in range(1200)))
    draw(roots["output"] / "a.png", prompt="here")
    told(Index(roots["output"], file))
    assert [json.loads(line)["name"] for line in file.read_text().splitlines()] == ["a.png"]


# Small copies


def test_a_thumbnail_is_made_once_and_anew_when_the_picture_changes(tmp_path):
    path = draw(tmp_path / "a.png")
    small = thumbnail(path, 256, tmp_path / "cache")
    with Image.open(io.BytesIO(small)) as image:
        assert (image.format, image.size) == ("WEBP", (256, 51))
    (kept,) = (tmp_path / "cache").glob("*/*.webp")
    assert kept.read_bytes() == small
    kept.write_bytes(b"kept")
    assert thumbnail(path, 256, tmp_path / "cache") == b"kept"
    draw(path, age=5)
    assert thumbnail(path, 256, tmp_path / "cache") == small
    assert len(list((tmp_path / "cache").glob("*/*.webp"))) == 2
    with pytest.raises(ConfigError, match="256 or 1024, not 4"):
        thumbnail_name(path, 4)


def test_a_thumbnail_is_shown_even_where_none_can_be_kept(tmp_path, caplog):
    path, cache = draw(tmp_path / "a.png"), tmp_path / "cache"
    cache.write_text("a file where the folder should be")
    assert thumbnail(path, 256, cache) == thumbnail(path, 256, tmp_path / "other")
    assert "could not be written" in caplog.text


def test_a_broken_picture_has_no_thumbnail_but_a_reason(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="a.png: not a PNG"):
        thumbnail(tmp_path / "a.png", 256, tmp_path / "cache")


def test_the_oldest_thumbnails_go_beyond_the_limit(tmp_path):
    for number in range(4):
        path = tmp_path / "ab" / f"{number}.webp"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 10)
        os.utime(path, (AGE + number, AGE + number))
    assert tidy(tmp_path, limit=39) == 1
    assert sorted(path.stem for path in tmp_path.glob("*/*")) == ["1", "2", "3"]
