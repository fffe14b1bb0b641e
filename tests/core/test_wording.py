"""Captions as training reads them: what stands around them, and in which orders their tags come."""

from dataclasses import replace

import pytest
import torch

from seppo_core import SePPOConfig, train
from seppo_core.adapters.lora import LoRAConfig
from seppo_core.data.encode import encode
from seppo_core.data.pictures import PictureFile, picture_from_tensor
from seppo_core.data.prepare import Preparation
from seppo_core.data.winners import LeftOut, Winner, Winners, pair_up
from seppo_core.data.wording import Wording, reworded, tags_of
from seppo_core.errors import ConfigError, DatasetError
from seppo_core.method.objectives import LossConfig
from seppo_core.method.references import ReferenceConfig
from seppo_core.randomness import normal
from seppo_core.training.config import RunConfig
from seppo_core.training.optim import OptimizerConfig


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


@pytest.mark.parametrize(
    "caption",
    [
        "1girl | smile | :) | outdoors | hat",
        "1girl | ;) | hat",
        ">:( | hat | :) | coat",
        "(: | hat | :(( | coat | :)) | ): | :'( | =) | ;-)",
        "(o)_(o) | (red, (o)_(o), blue:1.2) | (^_^) | \\o/",
        "(red, blue:1.2) | :( | (smile, :), sun:1.1) | x",
        "(>:(:1.2) | hat | :)",
        r"hatsune miku \(vocaloid\) | :\) | \(o\)_\(o\)",
        "((a, b), c) | [d, e] | {f, g} | [cat:dog:0.5]",
        "left (open | sad :( girl | closed] coat | 1. cat | hat",
    ],
)
def test_a_comma_parts_tags_unless_it_is_inside_a_bracket_that_was_opened(caption):
    """The bars stand for the commas that part."""
    assert tags_of(caption.replace(" |", ",")) == caption.split(" | ")


def test_tags_beside_a_face_change_places():
    variants = Wording(shuffle=30, keep=1).variants("1girl, smile, :), outdoors, hat")
    assert {text.split(", ")[1] for text in variants} == {"smile", ":)", "outdoors", "hat"}


def test_a_caption_of_commas_alone_or_of_many_tags_is_quick():
    assert Wording(shuffle=3).variants("," * 200_000) == ("," * 200_000,)
    assert len(tags_of("(," * 200_000 + ")," * 200_000)) == 1
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


def test_another_wording_is_another_set_of_winners():
    winners = pair_up([picture_from_tensor(torch.zeros(8, 8, 3), "0")], ["a"])
    identities = [reworded(winners, Wording(dropout=share)).identity for share in (0.0, 0.1, 0.1)]
    assert identities[0] != identities[1] == identities[2]


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


def encoded(wording: Wording | None, *captions: str, seen: list[str] | None = None, **settings):
    """A dataset of plain pictures; a caption's conditioning is its letters, `seen` lists the texts encoded."""
    pictures = [
        picture_from_tensor(torch.full((8, 8, 3), i / 9), f"{i}") for i in range(len(captions))
    ]
    winners = pair_up(pictures, captions)

    def text(caption: str) -> dict:
        if seen is not None:
            seen.append(caption)
        return {"letters": torch.tensor([float(ord(letter)) for letter in caption])}

    return encode(
        reworded(winners, wording) if wording else winners,
        lambda pixels: pixels.movedim(-1, 0),
        text,
        Preparation(resolution=8, multiple=8),
        image_identity="vae",
        text_identity="clip",
        **settings,
    )


def spelled(example) -> str:
    return "".join(chr(int(letter)) for letter in example.cond["letters"])


def test_each_variant_is_encoded_once_and_none_while_training():
    seen: list[str] = []
    wording = Wording(trigger="sks", shuffle=1, dropout=0.5)
    dataset = encoded(wording, "a, b", "c", "a, b", "c, d", seen=seen)
    expected = ["sks, a, b", "sks, b, a", "", "sks, c", "sks, c, d", "sks, d, c"]
    assert sorted(seen) == sorted(expected)
    drawn = [dataset.drawn(i, 0, window) for i in range(4) for window in range(40)]
    assert {spelled(example) for example in drawn} == set(expected)
    assert len(seen) == 6
    assert all(spelled(example) == example.caption for example in drawn)


def test_asked_for_plainly_a_winner_has_its_caption_in_the_given_order():
    dataset = encoded(Wording(prefix="my", shuffle=3, dropout=0.9), "a, b, c", "d")
    assert [dataset[i].caption for i in range(2)] == ["my a, b, c", "my d"]
    assert [spelled(dataset[i]) for i in range(2)] == ["my a, b, c", "my d"]


def test_what_is_drawn_depends_on_the_key_alone():
    dataset = encoded(Wording(shuffle=5, dropout=0.3), "a, b, c, d")
    keys = [(0, window, 0, "caption", 0) for window in range(30)]
    first = [dataset.drawn(0, *key).caption for key in keys]
    torch.manual_seed(7)
    again = [dataset.drawn(0, *key).caption for key in reversed(keys)]
    assert first == again[::-1]
    assert len(set(first)) > 3
    for key in keys:
        assert torch.equal(dataset.drawn(0, *key).latents, dataset[0].latents)


def test_dropout_is_a_share_of_the_draws_and_the_variants_share_the_rest():
    """600 draws at 0.25: 150 +- 11 empty ones; two variants of 225 +- 12 each. Four deviations."""
    dataset = encoded(Wording(shuffle=1, dropout=0.25), "a, b")
    drawn = [dataset.drawn(0, "share", number).caption for number in range(600)]
    assert abs(drawn.count("") - 150) < 44
    assert abs(drawn.count("a, b") - 225) < 48
    assert abs(drawn.count("b, a") - 225) < 48
    always = encoded(Wording(dropout=1.0), "a")
    assert {always.drawn(0, number).caption for number in range(20)} == {""}


def test_no_wording_draws_the_caption_as_it_is():
    seen: list[str] = []
    dataset = encoded(None, "a, b", "c", seen=seen)
    assert seen == ["a, b", "c"]
    assert {dataset.drawn(0, number).caption for number in range(20)} == {"a, b"}


def test_another_wording_is_another_dataset():
    wordings = [None, Wording(trigger="s"), Wording(shuffle=1), Wording(shuffle=2)]
    wordings += [Wording(dropout=0.1), Wording(dropout=0.2)]
    identities = [encoded(wording, "a, b, c").identity for wording in wordings]
    assert len(set(identities)) == 6
    assert encoded(Wording(keep=5), "a, b, c").identity == identities[0]  # nothing of it is used


def test_a_changed_wording_encodes_only_the_new_texts(tmp_path):
    first: list[str] = []
    encoded(Wording(shuffle=1), "a, b", "c", seen=first, cache=tmp_path)
    second: list[str] = []
    encoded(Wording(shuffle=1, dropout=0.1), "a, b", "c", seen=second, cache=tmp_path)
    assert (sorted(first), second) == (["a, b", "b, a", "c"], [""])


def test_progress_counts_every_picture_and_every_text():
    calls = []
    wording = Wording(shuffle=1, dropout=0.5)
    encoded(wording, "a, b", "c", on_item=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 6) for done in range(1, 7)]


TRAINING = SePPOConfig(
    steps=6,
    batch_size=2,
    loss=LossConfig(beta=50.0),
    references=ReferenceConfig(snapshot_every=2, sampling_steps=2, reuse=2),
    lora=LoRAConfig(rank=2, modules="all"),
    optimizer=OptimizerConfig(learning_rate=0.02, warmup=0.0),
    run=RunConfig(preview_every=0),
)


def worded_winners(wording: Wording | None):
    """Winners [2, 4, 4] for the tiny denoiser, whose text is three numbers."""
    generator = torch.Generator().manual_seed(0)
    pictures = [
        picture_from_tensor(torch.rand(4 * 8, 4 * 8, 3, generator=generator), f"{i}")
        for i in range(3)
    ]
    winners = pair_up(pictures, ["a, b, c", "d, e", "f"])

    def image(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.reshape(4, 8, 4, 8, 3).mean((1, 3)).movedim(-1, 0)[:2]

    return encode(
        reworded(winners, wording) if wording else winners,
        image,
        lambda caption: normal((3,), "text", caption),
        Preparation(resolution=32, multiple=8),
        image_identity="vae",
        text_identity="clip",
    )


def test_a_continued_run_reads_the_same_wordings_to_the_bit(make_policy, tmp_path):
    wording = Wording(trigger="sks", shuffle=3, dropout=0.3)

    def run(directory, steps):
        policy = make_policy()
        config = replace(TRAINING, run=replace(TRAINING.run, directory=str(directory)))
        reports = train(policy, worded_winners(wording), config)
        for _ in range(steps):
            next(reports)
        reports.close()
        return policy.lora.state()

    whole = run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 3)
    parts = run(tmp_path / "parts", 3)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_training_reads_the_drawn_captions(make_policy):
    def weights(wording):
        policy = make_policy()
        list(train(policy, worded_winners(wording), TRAINING))
        return policy.lora.state()

    plain, same, dropped = weights(None), weights(Wording()), weights(Wording(dropout=1.0))
    assert all(torch.equal(plain[name], same[name]) for name in plain)
    assert not torch.equal(plain["text.up"], dropped["text.up"])


@pytest.mark.parametrize("wording", [None, Wording(prefix="\udc2e\udc2e/outside")])
def test_halves_of_characters_reach_no_tokenizer(wording):
    winner = Winner(None, "a fox\ud800", wording=wording)
    (caption,) = winner.captions()
    assert caption == ("/outside a fox" if wording else "a fox")
