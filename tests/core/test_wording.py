"""Captions as training reads them: what stands around them, and in which orders their tags come."""

import pytest

from seppo_core.data.pictures import PictureFile
from seppo_core.data.winners import LeftOut, Winner, Winners
from seppo_core.data.wording import Wording, reworded
from seppo_core.errors import ConfigError, DatasetError


def test_trigger_prefix_and_suffix_stand_around_the_caption():
    worded = Wording(trigger="sks", prefix="a photo of", suffix="in a field")
    assert worded.apply("a red bird") == "sks, a photo of a red bird in a field"
    assert Wording(suffix=", sharp").apply("a red bird") == "a red bird, sharp"
    assert Wording(prefix="masterpiece,").apply("bird") == "masterpiece, bird"
    assert Wording().apply("a  red bird,cat ") == "a  red bird,cat "


@pytest.mark.parametrize(
    "caption", ["sks bird", "a bird, SKS", "photo of sks, red", "(sks:1.2), red"]
)
def test_a_trigger_that_is_there_is_not_doubled(caption):
    assert Wording(trigger="sks").apply(caption) == caption


def test_a_trigger_inside_another_word_is_not_there():
    assert Wording(trigger="art").apply("a party") == "art, a party"
    assert Wording(trigger="c++").apply("about c++.") == "about c++."


def test_the_given_order_comes_first_and_the_others_hold_the_same_tags():
    caption = "red,blue , green,  grey, white"
    variants = Wording(shuffle=7).variants(caption)
    assert variants[0] == caption
    assert len(variants) == len(set(variants)) == 8
    for other in variants[1:]:
        assert sorted(other.split(", ")) == ["blue", "green", "grey", "red", "white"]
        assert other != "red, blue, green, grey, white"


def test_orders_depend_on_the_caption_alone():
    first = Wording(shuffle=4).variants("a, b, c, d, e")
    assert Wording(trigger="", shuffle=4, dropout=0.5).variants("a, b, c, d, e") == first
    assert Wording(shuffle=2).variants("a, b, c, d, e") == first[:3]
    moved = [[x.split(", ").index(t) for t in "abcde"] for x in first[1:]]
    other = Wording(shuffle=4).variants("f, g, h, i, j")[1:]
    assert [[x.split(", ").index(t) for t in "fghij"] for x in other] != moved


def test_few_tags_have_few_orders_and_all_of_them_come():
    assert Wording(shuffle=9).variants("a") == ("a",)
    assert Wording(shuffle=9).variants("a, a") == ("a, a",)
    assert Wording(shuffle=9).variants("a, b") == ("a, b", "b, a")
    assert len(Wording(shuffle=9).variants("a, b, c")) == 6


def test_first_tags_that_are_kept_and_the_trigger_stay_in_front():
    for variant in Wording(shuffle=6, keep=2).variants("one, two, a, b, c, d"):
        assert variant.startswith("one, two, ")
    worded = Wording(trigger="sks", shuffle=6, prefix="drawing of")
    for variant in worded.variants("a, b, c, d"):
        assert variant.startswith("sks, drawing of ")
    given, *others = Wording(trigger="sks", shuffle=6, keep=1).variants("one, a, a sks bird, b, c")
    assert given == "one, a, a sks bird, b, c"
    assert len(others) == 6  # in front it is another order already
    assert all(variant.startswith("a sks bird, one, ") for variant in others)


def test_a_group_in_brackets_is_one_tag_and_a_lone_bracket_is_none():
    variants = Wording(shuffle=20).variants("(red, blue:1.2), :(, bird")
    assert len(variants) == 6
    assert all("(red, blue:1.2)" in variant for variant in variants)


def test_a_caption_of_commas_alone_or_of_many_tags_is_quick():
    assert Wording(shuffle=3).variants("," * 200_000) == ("," * 200_000,)
    assert len(Wording(shuffle=2).variants("a, " * 50_000 + "b")) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shuffle": -1}, r"shuffle must lie in \[0, 100\], got -1"),
        ({"shuffle": 101}, r"shuffle must lie in \[0, 100\], got 101"),
        ({"keep": -1}, "keep must not be negative"),
        ({"dropout": 1.1}, r"dropout must lie in \[0, 1\], got 1.1"),
        ({"dropout": float("nan")}, "dropout must lie in"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Wording(**settings)


def gone() -> Winners:
    """Winners whose files are not there: reading any of them raises."""
    found = [Winner(PictureFile(f"/nowhere/{i}.png", f"{i}.png"), f"a {i}, b", 3) for i in (1, 2)]
    return Winners(found, "here", [LeftOut("x.png", "broken")], ["a note"])


def test_rewording_reads_nothing_and_keeps_all_else():
    before = gone()
    after = reworded(before, Wording(trigger="sks", shuffle=1))
    assert (after.source, after.left_out, after.notes) == ("here", before.left_out, ["a note"])
    assert [winner.captions() for winner in after] == [
        ("sks, a 1, b", "sks, b, a 1"),
        ("sks, a 2, b", "sks, b, a 2"),
    ]
    assert (after[1].caption, after[1].repeats, after[1].name) == ("a 2, b", 3, "2.png")
    assert before[0].captions() == ("a 1, b",)
    with pytest.raises(DatasetError, match=r"1\.png"):
        after[0].load()


def test_another_wording_takes_the_place_of_the_first():
    twice = reworded(reworded(gone(), Wording(trigger="sks")), Wording(suffix="now"))
    assert twice[0].captions() == ("a 1, b now",)
