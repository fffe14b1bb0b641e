"""The pictures of a run: what is read back is what was shown, also after damage and after steps that were done twice."""

import pytest
from PIL import Image

from seppo_core.runs.pictures import FOLDER, LEVELS, RunPictures
from seppo_core.runs.report import ExampleReport


def example(winner=0, level=0.0, role=1.0, margin=-1.0):
    return ExampleReport(winner, level, role, margin, 0.5)


def test_the_map_counts_how_often_the_policy_was_ahead(tmp_path):
    shown = RunPictures(tmp_path)
    shown.add_examples(1, [example(0, 0.0), example(1, 0.99, margin=2.0)])
    shown.add_examples(2, [example(0, 0.01, margin=0.0)])
    assert shown.cells(2) == {"0,0": [2, 1], f"1,{LEVELS - 1}": [1, 0]}
    assert shown.cells(1) == {"0,0": [1, 1], f"1,{LEVELS - 1}": [1, 0]}


def test_a_step_done_twice_counts_once(tmp_path):
    shown = RunPictures(tmp_path)
    shown.add_examples(1, [example(margin=1.0)])
    shown.add_examples(1, [example(margin=-1.0)])
    assert shown.cells(1) == {"0,0": [1, 1]}


def test_pictures_come_back_in_the_order_of_steps_and_replaced_ones_once(tmp_path):
    shown, picture = RunPictures(tmp_path), Image.new("RGB", (4, 4), "red")
    shown.add_picture("test", 2, picture, number=0, prompt="a")
    shown.add_picture("test", 0, picture, number=1, prompt="b")
    shown.add_picture("test", 2, picture, number=0, prompt="a again")
    shown.add_picture("sample", 1, picture, caption="c")
    lines = shown.pictures("test", 2)
    assert [(line["step"], line["prompt"]) for line in lines] == [(0, "b"), (2, "a again")]
    assert shown.pictures("test", 1) == lines[:1]
    with Image.open(shown.picture_path(lines[0]["file"])) as kept:
        assert kept.size == (4, 4)


@pytest.mark.parametrize("name", ["../run.json", "about.json", "none.webp", "", "."])
def test_no_other_file_is_given_away(tmp_path, name):
    shown = RunPictures(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    shown.write_about({"panel": "x"})
    assert shown.picture_path(name) is None


def test_torn_and_foreign_lines_are_passed_over(tmp_path):
    shown = RunPictures(tmp_path)
    shown.add_examples(1, [example()])
    path = shown.folder / "examples.jsonl"
    path.write_text(path.read_text() + 'nonsense\n{"step": 2, "rows": [[1]]}\n{"step": 3, "ro')
    (shown.folder / "about.json").write_text("[1]")
    assert shown.cells(9) == {"0,0": [1, 1]}
    assert shown.about() == {}
    assert RunPictures(tmp_path / "nowhere").pictures("sample", 9) == []


def test_pictures_that_cannot_be_written_hinders_nothing(tmp_path, caplog):
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    shown = RunPictures(tmp_path)
    shown.add_examples(1, [example()])
    shown.add_picture("sample", 1, Image.new("RGB", (4, 4)))
    assert not shown.works
    assert len([r for r in caplog.records if "no more pictures" in r.getMessage()]) == 1
