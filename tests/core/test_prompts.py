"""Prompts read from whole files, and which caption a picture gets."""

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from seppo_core.data import prompts
from seppo_core.data.generation import Generation, NoPromptError
from seppo_core.data.prompts import read_generation
from seppo_core.data.readers import read_winners
from seppo_core.errors import DatasetError

GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox", "clip": ["1", 1]}},
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 7, "steps": 20, "cfg": 8.0, "model": ["1", 0], "positive": ["2", 0]},
    },
    "4": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0]}},
    "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "ComfyUI"}},
}
TOLD = Generation("a red fox", "", 7, 20, 8.0, None, None, "sd15.safetensors")

A1111 = """a red fox, <lora:fur:0.8> snow
Negative prompt: blurry
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 12, Size: 512x512, Model: sd15"""


def png(**texts: str) -> io.BytesIO:
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "PNG", pnginfo=info)
    return file


def read(**texts: str) -> Generation:
    return read_generation(png(**texts), "ComfyUI_00001_.png")


def reason(**texts: str) -> str:
    with pytest.raises(NoPromptError) as caught:
        read(**texts)
    return str(caught.value)


def with_text(text: object) -> str:
    graph = json.loads(json.dumps(GRAPH))
    graph["2"]["inputs"]["text"] = text
    return json.dumps(graph)


def test_comfyui_graph_in_a_png():
    assert read(prompt=json.dumps(GRAPH), workflow="{}") == TOLD


def test_comfyui_graph_comes_before_what_other_programs_wrote():
    assert read(parameters=A1111, prompt=json.dumps(GRAPH)) == TOLD


def test_what_a_node_wrote_beside_a_silent_graph_is_read():
    pytest.importorskip("sd_parsers", reason="the extra prompts is not installed")
    silent = with_text(["9", 0])
    assert read(prompt=silent, parameters=A1111).seed == 12
    assert "node 2 (CLIPTextEncode) holds no text" in reason(prompt=silent, parameters="Steps: 1")


@pytest.mark.parametrize("text", ["a <wildcard:animal>", "a <random:cat|dog>", " ", "x" * 30_000])
def test_what_a_node_wrote_beside_comes_before_a_graphs_unfinished_text(text):
    pytest.importorskip("sd_parsers", reason="the extra prompts is not installed")
    assert read(prompt=with_text(text), parameters=f"a dog\n{A1111}").prompt.startswith("a dog")
    told = reason(prompt=with_text(text), parameters=A1111.replace("a red fox", "a <wc:fox>"))
    assert (
        told.startswith("its prompt ") and "; beside the graph, its prompt holds '<wc:fox>'" in told
    )


@pytest.mark.parametrize("inner", [json.dumps(GRAPH), GRAPH], ids=["text", "object"])
def test_graphs_within_one_comment_as_video_helpers_write_it(inner):
    assert read(Comment=json.dumps({"prompt": inner, "CreationTime": "2025"})) == TOLD


SWARM = {
    "prompt": "a red fox <lora:fur:0.8><segment:face,0.6,0.5> a sharp face",
    "negativeprompt": "blurry",
    **{"model": "sd15", "seed": 12, "steps": 20, "cfgscale": 7.0, "sampler": "euler"},
    "scheduler": "normal",
}


def test_swarmui_settings_tell_the_prompt_of_the_whole_picture():
    told = Generation("a red fox", "blurry", 12, 20, 7.0, "euler", "normal", "sd15")
    text = json.dumps({"sui_image_params": SWARM, "sui_extra_data": {"date": "x"}})
    assert read(parameters=text) == told
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-le")
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", exif=tags)
    assert read_generation(file, "x.jpg") == told


@pytest.mark.parametrize("mark", ["<random:red|blue>", "<style:oil>", "<setvar[a]:red>"])
def test_marks_for_words_that_the_file_does_not_hold_are_told(mark):
    swarm = json.dumps({"sui_image_params": {"prompt": f"a {mark} fox", "seed": 1}})
    for told in (reason(parameters=swarm), reason(prompt=with_text(f"a {mark} fox"))):
        assert told == (
            f"its prompt holds {mark!r}, for which words were put that the file does not hold"
        )


def test_a_mark_that_never_ends_takes_no_longer_than_its_text():
    prompt = "a fox <segment:" + "/" * 200_000
    swarm = json.dumps({"sui_image_params": {"prompt": prompt, "seed": 1}})
    assert reason(parameters=swarm) == "its prompt is over 20000 characters"


def test_json_of_unknown_programs_is_told_by_its_keys_and_names_no_program():
    told = "its text is JSON of a program that is not known (keys: 'foo', 'bar')"
    assert reason(parameters='{"foo": 1, "bar": {"prompt": 2}}') == told
    assert reason(parameters="{]") == (
        "its text cannot be read as that of any program: it starts like JSON and is none"
    )


def test_settings_in_json_that_name_their_prompt_are_read():
    found = read(parameters='{"prompt": "a red fox", "Seed": 3, "cfg_scale": "7.5", "steps": "x"}')
    assert (found.prompt, found.seed, found.cfg, found.steps) == ("a red fox", 3, 7.5, None)


@pytest.mark.parametrize("key", ["parameters", "Comment", "prompt", "anything"])
@pytest.mark.parametrize(
    "wrapped",
    [GRAPH, {"client_id": "x", "prompt": GRAPH}, {"output": json.dumps(GRAPH), "workflow": {}}],
    ids=["bare", "request", "both"],
)
def test_graphs_are_found_in_whatever_text_holds_them(key, wrapped):
    assert read(**{key: json.dumps(wrapped)}) == TOLD


@pytest.mark.parametrize(
    "text",
    [
        "a red fox <lora:fur:0.8>",
        "<lora:fur:0.8>, a red fox",
        "a red fox, <lora:fur:0.8>, <lyco:b:1>",
        "a <lora:fur:0.8:LBW=1,0> red fox",
        "a red fox\n<hypernet:x:1>",
    ],
)
def test_marks_for_networks_are_taken_out_of_graphs_texts(text):
    assert read(prompt=with_text(text)).prompt == "a red fox"


def test_types_in_the_editors_graph_tell_what_a_node_of_an_unknown_pack_gives():
    """Both sides of the loader come from nodes that nothing in the API's graph tells apart."""
    graph = json.loads(json.dumps(GRAPH))
    graph["2"] = {"class_type": "Zzz", "inputs": {"words": "a red fox"}}
    graph["3"]["inputs"].pop("model")
    nodes = [{"id": 2, "type": "Zzz", "outputs": [{"type": "CONDITIONING"}]}]
    typed = json.dumps({"nodes": nodes, "links": []})
    assert "no saved picture leads to a sampler" in reason(prompt=json.dumps(graph))
    assert read(prompt=json.dumps(graph), workflow=typed).prompt == "a red fox"


def test_plain_text_under_prompt_is_the_prompt():
    assert read(prompt=" a red fox ") == Generation("a red fox")


def test_picture_without_texts_says_so():
    assert reason() == "it carries no text of a program that makes pictures"
    assert reason(Comment="Created with GIMP") == reason()


@pytest.mark.parametrize(
    "text", ['{"1": {', "{" * 100_000, '{"a":' * 100_000, '{"1": ' + "9" * 5000 + "}"]
)
def test_graph_that_is_no_json_is_told(text):
    assert reason(prompt=text) == "its graph is no valid JSON, or nested too deeply"


def test_text_is_stripped_and_freed_of_control_characters():
    assert (
        read(prompt=with_text(" a\x00 red\x1b[31m\r\nfox\u2028\ud800 ")).prompt == "a red[31m\nfox"
    )
    assert reason(prompt=with_text("\x00 \x07")) == "its prompt is empty"


def test_prompt_beyond_all_measure_is_refused():
    assert reason(prompt=with_text("x" * 30_000)) == "its prompt is over 20000 characters"


def test_automatic1111_parameters_without_its_marks_for_networks():
    pytest.importorskip("sd_parsers", reason="the extra prompts is not installed")
    told = Generation("a red fox, snow", "blurry", 12, 20, 7.0, "Euler a", None, "sd15")
    assert read(parameters=A1111) == told
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + A1111.encode("utf-16-be")
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", exif=tags)
    assert read_generation(file, "x.jpg") == told


@pytest.mark.parametrize(
    "parameters",
    [
        "Steps: 1",
        "Negative prompt: Negative prompt:\nSteps: 1, Seed: 2, CFG scale: 3, Sampler: x",
        "{]",
    ],
)
def test_other_programs_texts_that_cannot_be_read_are_told(parameters):
    pytest.importorskip("sd_parsers", reason="the extra prompts is not installed")
    assert reason(parameters=parameters).startswith("its text cannot be read as that of ")


def test_missing_parser_is_named_only_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sd_parsers", None)
    assert reason(parameters=A1111) == (
        "AUTOMATIC1111 wrote its prompt, which is read with: pip install sd-parsers"
    )
    assert read(prompt=json.dumps(GRAPH)) == TOLD
    assert reason(prompt=with_text(["9", 0]), parameters=A1111) == (
        "input 'text' of node 2 (CLIPTextEncode) holds no text; beside the graph, AUTOMATIC1111 wrote "
        "its prompt, which is read with: pip install sd-parsers"
    )


def save(path: Path, **texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(**texts).getvalue())
    return path


def test_folder_captions_pictures_with_the_prompts_they_carry(tmp_path):
    save(tmp_path / "ComfyUI_00001_.png", prompt=json.dumps(GRAPH))
    winners = read_winners(tmp_path)
    assert (winners[0].caption, winners[0].about) == ("a red fox", TOLD)
    assert "sd15.safetensors (1)" in winners.report()


def test_what_is_written_beside_comes_first_and_the_folders_words_last(tmp_path):
    beside = save(tmp_path / "3_folder words" / "a.png", prompt=json.dumps(GRAPH))
    beside.with_suffix(".txt").write_text("written beside")
    save(tmp_path / "3_folder words" / "b.png", prompt=json.dumps(GRAPH))
    save(tmp_path / "3_folder words" / "c.png")
    save(tmp_path / "d.png")
    captions = [winner.caption for winner in read_winners(tmp_path, caption="for all")]
    assert captions == ["for all", "written beside", "a red fox", "folder words"]


def test_graph_in_a_json_beside_captions_the_picture(tmp_path):
    beside = save(tmp_path / "a.png")
    beside.with_suffix(".json").write_text(json.dumps(GRAPH))
    plain = save(tmp_path / "b.png", prompt=json.dumps(GRAPH))
    silent = json.loads(with_text(["9", 0])) | {"text": {"class_type": "Note", "inputs": {}}}
    plain.with_suffix(".json").write_text(json.dumps(silent))
    assert [winner.caption for winner in read_winners(tmp_path)] == ["a red fox", "a red fox"]


@pytest.mark.parametrize(
    ("sidecar", "caption"),
    [
        ({"prompt": "a cat", "workflow": json.loads(with_text(["9", 0]))}, "a cat"),
        ({"prompt": "a cat", "workflow": with_text(["9", 0])}, "a cat"),
        ({"workflow": {"nodes": [], "links": []}, "tags": ["a cat", "snow"]}, "a cat, snow"),
        ({"prompt": with_text(["9", 0]), "caption": "a cat"}, "a cat"),
        ({"prompt": with_text(["9", 0])}, "a red fox"),
        ({"prompt": "a cat", "workflow": GRAPH}, "a red fox"),
        ({"caption": "a cat", "prompt": GRAPH}, "a cat"),
        ({"text": "a cat", "workflow": json.dumps(GRAPH)}, "a cat"),
    ],
)
def test_caption_beside_a_silent_graph_in_one_json_is_read(tmp_path, sidecar, caption):
    save(tmp_path / "a.png", prompt=json.dumps(GRAPH))
    (tmp_path / "a.json").write_text(json.dumps(sidecar))
    assert read_winners(tmp_path)[0].caption == caption


def test_files_alone_are_asked_on_request(tmp_path):
    save(tmp_path / "a.png", prompt=json.dumps(GRAPH))
    with pytest.raises(DatasetError, match="no caption beside it. Put a .txt"):
        read_winners(tmp_path, captions="files")
    assert read_winners(tmp_path, captions="file names")[0].caption == "a"


def test_pictures_without_caption_say_why_their_file_tells_none(tmp_path):
    save(tmp_path / "a.png", prompt=json.dumps(GRAPH))
    save(tmp_path / "b.png", prompt=with_text(["9", 0]))
    save(tmp_path / "c.png")
    reasons = {item.name: item.reason for item in read_winners(tmp_path).left_out}
    assert reasons == {
        "b.png": "no caption beside it; in the file: input 'text' of node 2 (CLIPTextEncode) holds "
        "no text. Put a .txt of the same name beside it, or give one caption for all",
        "c.png": "no caption beside it; in the file: it carries no text of a program that makes "
        "pictures. Put a .txt of the same name beside it, or give one caption for all",
    }


def test_every_program_is_read_by_a_parser_of_that_name():
    parsers = pytest.importorskip("sd_parsers.parsers", reason="the extra prompts is not installed")
    assert all(hasattr(parsers, f"{name}Parser") for name in prompts.PROGRAMS)
