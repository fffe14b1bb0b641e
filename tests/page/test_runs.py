"""The run panel and the list of runs, on a page that trains."""

from __future__ import annotations

import itertools

import pytest
from graphs import FOLDER, LONG, draw_winners, node, training
from PIL import Image
from running import panel, points, until_pictures, until_state, until_step
from safetensors import safe_open

NUMBER = itertools.count()


MANY, PICTURES = "page_many", 80
SAID = (
    "() => document.querySelector('[data-testid=run-panel] [data-testid=run-state]')?.textContent"
)
ROW = "(name) => document.querySelector(`[data-run='${name}'] [data-testid=run-row-state]`)?.textContent"
FOLLOW = """() => {
    window.said = [];
    const follow = () => {
        const head = document.querySelector("[data-testid=run-panel] [data-testid=run-state]");
        const now = head && `${head.dataset.state}: ${head.textContent}`;
        if (now && window.said.at(-1) !== now) window.said.push(now);
        requestAnimationFrame(follow);
    };
    follow();
}"""
"""Everything that the panel's head says from now on, as `window.said`."""


@pytest.fixture(scope="module", autouse=True)
def winners(base):
    draw_winners(base / "input" / FOLDER)
    (base / "input" / MANY).mkdir()
    for i in range(PICTURES):
        Image.new("RGB", (96, 96), (3 * i, 90, 240 - 3 * i)).save(
            base / "input" / MANY / f"{i}.png"
        )
        (base / "input" / MANY / f"{i}.txt").write_text(f"ground number {i}", "utf-8")


def graph(checkpoint: str, steps: int, **widgets) -> tuple[dict, str]:
    """Training alone, with two test prompts, under a run name of its own."""
    name = f"page_{next(NUMBER)}"
    prompt = training(checkpoint, name, steps, **widgets)
    for unused in ("positive", "negative", "sample", "latents"):
        del prompt[unused]
    prompt["tests"] = node(
        "SePPOTestPrompts",
        clip=["base", 1],
        latent=["size", 0],
        prompts="a crimson disc\na green disc",
        every=2,
        seed=0,
        sampling_steps=2,
        guidance=1.0,
        sampler="euler",
        scheduler="normal",
    )
    prompt["train"]["inputs"]["tests"] = ["tests", 0]
    return prompt, name


def test_a_run_is_seen_as_it_goes_and_whole_after_a_reload(open_page, checkpoint, light):
    page = open_page(light=light)
    prompt, name = graph(checkpoint, LONG)
    page.load(prompt)
    page.look_at("SePPOTrain")
    page.queue()
    until_step(page, 3)
    until_pictures(page, "run-samples", 2)
    before = page.ask("() => window.app.graph.serialize()")
    page.reload()
    page.ask("graph => window.app.loadGraphData(graph)", before)
    page.look_at("SePPOTrain")
    until_step(page, 4)
    steps = int(panel(page).locator("[data-testid=run-state]").get_attribute("data-step"))
    assert points(page, "loss") >= steps - 1
    until_pictures(page, "run-samples", 2)
    until_pictures(page, "run-tests", 2)
    assert int(panel(page).locator("[data-testid=run-map]").get_attribute("data-winners")) >= 1
    assert page.is_legible()
    page.shot(f"run_panel_{'light' if light else 'dark'}")
    panel(page).locator("[data-testid=run-stop]").click()
    until_state(page, "stopped")
    kept = page.host.get(f"/seppo/runs/{name}")
    assert kept["last"] == kept["step"] >= steps
    assert [line["step"] for line in kept["tests"][:4]] == [0, 0, 2, 2]
    assert len(kept["samples"]) == kept["last"]
    assert sum(looked for looked, _ in kept["cells"].values()) == kept["last"]


def metrics(count: int) -> list[dict]:
    return [
        {
            "step": step,
            "loss": 1 / step,
            "winner_margin": -step / count,
            "flip_rate": 0.5,
            "seconds": 0.1,
        }
        for step in range(1, count + 1)
    ]


def message(rows: list[dict], run: str, id: str) -> dict:
    examples = [[row["step"], [[row["step"] % 4, row["step"] % 10 / 10, -1]]] for row in rows]
    about = {"run": run, "panel": id, "steps": 5000, "memory": {"used": 1, "total": 2}}
    return about | {"rows": rows, "examples": examples, "samples": [], "tests": [], "captions": []}


def test_five_thousand_steps_in_a_thousand_messages_are_drawn_once_a_frame(open_page):
    page = open_page()
    page.load({"train": node("SePPOTrain", run_name="fast")})
    page.look_at("SePPOTrain")
    id = page.ask("() => window.app.graph.nodes[0].properties.seppo_panel")
    rows = metrics(5000)
    told = [message(rows[i : i + 5], "fast", id) for i in range(0, 5000, 5)]
    draws = page.ask(
        """async (told) => {
            const { api } = window.comfyAPI.api;
            const chart = "[data-testid=run-panel] [data-testid=chart-loss]";
            let draws = 0;
            const watch = new MutationObserver((changes) => { draws += changes.length; });
            for (const detail of told) {
                api.dispatchEvent(new CustomEvent("seppo.step", { detail }));
                const box = document.querySelector(chart);
                if (box) watch.observe(box, { attributes: true, attributeFilter: ["data-points"] });
            }
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            return draws;
        }""",
        told,
    )
    assert points(page, "loss") == 5000
    assert draws <= 3, "the messages came within one frame"
    page.shot("run_panel_5000_steps")


def test_a_curve_without_a_value_stays_away_until_it_has_one(open_page):
    """The indicator learns from no sample; its panel must not promise a curve of them."""
    page = open_page()
    page.load({"train": node("SePPOTrain", run_name="curves")})
    page.look_at("SePPOTrain")
    id = page.ask("() => window.app.graph.nodes[0].properties.seppo_panel")
    losing, learned = (
        [
            row | {"sample_margin_losing": 0.1, "sample_margin_winning": value}
            for row in metrics(3)[start:end]
        ]
        for value, start, end in ((None, 0, 2), (-0.1, 2, 3))
    )
    labels = panel(page).locator("[data-testid=chart-sample-margin] .u-legend .u-label")
    for rows, words in ((losing, ["losing"]), (learned, ["losing", "learned"])):
        page.ask(
            "(detail) => window.comfyAPI.api.api.dispatchEvent(new CustomEvent('seppo.step', { detail }))",
            message(rows, "curves", id),
        )
        until_step(page, rows[-1]["step"])
        assert labels.all_inner_texts() == words


def test_what_rounding_alone_does_is_a_band_where_the_run_knows_it(open_page):
    page = open_page()
    page.load({"train": node("SePPOTrain", run_name="band")})
    page.look_at("SePPOTrain")
    id = page.ask("() => window.app.graph.nodes[0].properties.seppo_panel")
    labels = panel(page).locator("[data-testid=chart-winner-margin] .u-legend .u-label:visible")
    rough = [row | {"winner_margin_floor": 0.5} for row in metrics(4)[2:]]
    for rows, words in ((metrics(2), []), (rough, ["winner margin", "rounding alone"])):
        page.ask(
            "(detail) => window.comfyAPI.api.api.dispatchEvent(new CustomEvent('seppo.step', { detail }))",
            message(rows, "band", id),
        )
        until_step(page, rows[-1]["step"])
        assert labels.all_inner_texts() == words
    greys = page.ask(
        """() => {
            const canvas = document.querySelector("[data-testid=chart-winner-margin] canvas");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let count = 0;
            for (let i = 0; i < data.length; i += 4) {
                count += data[i + 3] > 40 && data[i + 3] < 90 && Math.abs(data[i] - 138) < 12;
            }
            return count;
        }"""
    )
    assert greys > 300
    page.shot("run_panel_winner_margin_band")


def test_a_panel_that_goes_to_another_run_shows_that_runs_samples(open_page):
    page = open_page()
    page.load({"train": node("SePPOTrain", run_name="first")})
    page.look_at("SePPOTrain")
    id = page.ask("() => window.app.graph.nodes[0].properties.seppo_panel")
    for run, role in (("first", 1), ("second", -1)):
        sample = {"step": 1, "file": "sample_00000001_000.webp", "caption": "a fox", "role": role}
        told = message(metrics(1), run, id) | {"samples": [sample]}
        page.ask(
            "(detail) => window.comfyAPI.api.api.dispatchEvent(new CustomEvent('seppo.step', { detail }))",
            told,
        )
        page.wait_for(
            """(run) => document.querySelector('[data-testid=run-panel] [data-testid=run-samples] img')
                ?.src.includes(`/seppo/runs/${run}/`)""",
            run,
        )
    verdict = panel(page).locator("[data-testid=run-samples] figure").get_attribute("data-verdict")
    assert verdict == "learned"


def test_a_run_that_goes_back_is_read_anew(open_page):
    """The state is told once more, as after trouble; what the page has beyond it is not kept."""
    page = open_page()
    page.load({"train": node("SePPOTrain", run_name="back")})
    page.look_at("SePPOTrain")
    id = page.ask("() => window.app.graph.nodes[0].properties.seppo_panel")
    asked = []
    record = {
        "name": "back",
        "step": 2,
        "steps": 9,
        "state": "training",
        "metrics": {"step": [1, 2], "loss": [0.5, 0.4]},
        **{"samples": [], "tests": [], "cells": {}, "captions": {}, "levels": 8, "last": 2},
    }
    page.tab.route(
        "**/seppo/runs/back", lambda route: (asked.append(1), route.fulfill(json=record))
    )
    page.ask(
        """([step, state]) => {
            const { api } = window.comfyAPI.api;
            api.dispatchEvent(new CustomEvent("seppo.step", { detail: step }));
            api.dispatchEvent(new CustomEvent("seppo.run", { detail: state }));
        }""",
        [
            message(metrics(5), "back", id),
            {"run": "back", "panel": id, "steps": 9, "state": "training"},
        ],
    )
    until_step(page, 2)
    page.wait_for(
        "() => document.querySelector('[data-testid=run-panel] [data-testid=chart-loss]')?.dataset.points === '2'"
    )
    assert asked


def test_a_panel_lives_on_after_undo(open_page):
    page = open_page()
    page.load({"train": node("SePPOTrain", run_name="undone")})
    page.look_at("SePPOTrain")
    id = page.ask("() => window.app.graph.nodes[0].properties.seppo_panel")
    page.ask(
        """() => {
            const node = window.app.graph.nodes[0];
            node.widgets.find((widget) => widget.name === "steps").value = 77;
            const tracker = window.app.extensionManager.workflow.activeWorkflow.changeTracker;
            (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
            return tracker.undo();
        }"""
    )
    page.wait_for(
        "() => window.app.graph.nodes[0]?.widgets.find((w) => w.name === 'steps').value !== 77"
    )
    assert page.ask("() => window.app.graph.nodes[0].properties.seppo_panel") == id
    told = message(metrics(3), "undone", id)
    page.ask(
        "(detail) => window.comfyAPI.api.api.dispatchEvent(new CustomEvent('seppo.step', { detail }))",
        told,
    )
    until_step(page, 3)


def test_a_copy_of_the_node_has_a_panel_of_its_own(open_page):
    page = open_page()
    page.load({"train": node("SePPOTrain", run_name="copied")})
    ids = page.ask(
        """() => {
            const [first] = window.app.graph.nodes;
            const second = first.clone();
            window.app.graph.add(second);
            return window.app.graph.nodes.map((node) => node.properties.seppo_panel);
        }"""
    )
    assert len(ids) == 2 and all(ids) and ids[0] != ids[1]


INTO_A_SUBGRAPH = """() => {
    const { app } = window;
    const train = app.graph.nodes.find((node) => node.comfyClass === "SePPOTrain");
    const { subgraph, node } = app.graph.convertToSubgraph(new Set([train]));
    app.canvas.openSubgraph(subgraph, node);
    app.canvas.ds.scale = 1;
    app.canvas.centerOnNode(subgraph.nodes[0]);
    app.graph.setDirtyCanvas(true, true);
    return app.canvas.graph.nodes.map((one) => one.comfyClass);
}"""


def test_a_node_inside_a_subgraph_shows_its_run(open_page, checkpoint):
    page = open_page()
    prompt, name = graph(checkpoint, LONG, seed=5)
    page.load(prompt)
    assert page.ask(INTO_A_SUBGRAPH) == ["SePPOTrain"]
    page.queue()
    until_step(page, 2)
    until_pictures(page, "run-samples", 1)
    page.shot("run_panel_in_a_subgraph")
    panel(page).locator("[data-testid=run-stop]").click()
    until_state(page, "stopped")
    assert page.host.get(f"/seppo/runs/{name}")["last"] >= 2


def test_the_list_compares_runs_and_puts_one_into_the_graph(open_page, checkpoint):
    page = open_page()
    names = []
    for seed in (1, 2):
        prompt, name = graph(checkpoint, 3, seed=seed)
        page.host.run_graph(prompt)
        names.append(name)
    page.ask(
        "() => window.app.extensionManager.command.execute('Workspace.ToggleSidebarTab.seppo-runs')"
    )
    for name in names:
        row = page.tab.locator(f"[data-run='{name}']")
        row.locator("[data-testid=run-tick]").check()
    page.wait_for(
        "() => document.querySelector('.seppo-list [data-testid=chart-loss] .u-legend')?.children.length > 0"
    )
    legend = page.tab.locator(".seppo-list [data-testid=chart-loss] .u-legend").first.inner_text()
    assert all(name in legend for name in names)
    page.tab.locator(f"[data-run='{names[0]}'] [data-testid=run-load]").click()
    loaded = page.wait_for(
        """() => window.app.graph.nodes.find((node) => node.comfyClass === "SePPOLoadRun")
            ?.widgets.find((widget) => widget.name === "run_name").value"""
    )
    assert loaded == names[0]
    page.shot("run_list")


def test_a_snapshot_comes_into_the_graph_as_a_lora_to_save(open_page, base, checkpoint):
    page = open_page()
    prompt, name = graph(checkpoint, 3, seed=4)
    page.host.run_graph(prompt)
    page.ask("() => window.app.graph.clear()")
    page.ask(
        "() => window.app.extensionManager.command.execute('Workspace.ToggleSidebarTab.seppo-runs')"
    )
    row = page.tab.locator(f"[data-run='{name}']")
    row.locator("[data-testid=run-snapshot][data-step='2']").click()
    page.wait_for("() => window.app.graph.nodes.length === 2")
    before = set((base / "output" / "loras").glob("*"))
    page.queue()
    for _ in range(300):
        if new := set((base / "output" / "loras").glob("*.safetensors")) - before:
            break
        page.tab.wait_for_timeout(100)
    (file,) = new
    with safe_open(file, "pt") as saved:
        assert (saved.metadata()["ss_output_name"], saved.metadata()["ss_steps"]) == (name, "2")


def test_cancel_ends_the_graph_and_the_panel_says_so(open_page, checkpoint):
    page = open_page()
    prompt, name = graph(checkpoint, LONG, seed=3)
    page.load(prompt)
    page.look_at("SePPOTrain")
    page.queue()
    until_step(page, 1)
    panel(page).locator("[data-testid=run-cancel]").click()
    until_state(page, "cancelled")
    kept = page.host.get(f"/seppo/runs/{name}")
    assert kept["state"] == "cancelled" and not kept["training"] and kept["step"] >= 1
    said = f"cancelled at step {kept['step']} of {LONG}: press Run to go on"
    assert page.ask(SAID).startswith(f"{name}  ·  {said}")
    assert "left" not in page.ask(SAID)


def test_a_panel_says_what_passes_before_its_run_begins(open_page, checkpoint, vue):
    page = open_page()
    prompt, name = graph(checkpoint, LONG, seed=8 + vue)
    prompt["winners"]["inputs"] |= {"folder": MANY, "caption": ""}
    prompt["dataset"]["inputs"]["resolution"] = 128 if vue else 64  # what was encoded once is kept
    page.load(prompt)
    page.look_at("SePPOTrain")
    page.wait_for(f"() => ({SAID})() === 'No run yet'")
    page.ask(FOLLOW)
    page.queue()
    page.wait_for("() => window.said.some((one) => one.startsWith('encoding: '))")
    graph_before = page.ask("() => window.app.graph.serialize()")
    first = page.ask("() => window.said")
    page.reload()
    page.ask("graph => window.app.loadGraphData(graph)", graph_before)
    page.look_at("SePPOTrain")
    page.ask(FOLLOW)
    until_step(page, 1)
    said = first + page.ask("() => window.said")
    begun = next(i for i, one in enumerate(said) if not one.startswith(("none: ", ": ")))
    assert not any("No run yet" in one for one in said[begun:]), said
    states = [one.partition(":")[0] for one in said[begun:] if not one.startswith(": ")]
    order = ["waiting", "encoding", "training"]
    assert states == sorted(states, key=order.index), said
    assert any("encoding winners (" in one for one in said), said
    panel(page).locator("[data-testid=run-cancel]").click()
    until_state(page, "cancelled")


def test_a_stopped_run_stays_so_until_continue_and_list_and_panel_agree(open_page, checkpoint):
    page = open_page()
    prompt, name = graph(checkpoint, LONG, seed=6)
    page.load(prompt)
    page.look_at("SePPOTrain")
    page.ask(
        "() => window.app.extensionManager.command.execute('Workspace.ToggleSidebarTab.seppo-runs')"
    )
    page.queue()
    until_step(page, 2)
    page.wait_for(f"(name) => ({ROW})(name)?.startsWith('training at step ')", name)
    panel(page).locator("[data-testid=run-stop]").click()
    until_state(page, "stopped")

    def agree(sentence: str) -> None:
        page.wait_for(f"([name, text]) => ({ROW})(name) === text", [name, sentence])
        page.wait_for(f"(text) => ({SAID})()?.includes(text)", sentence)
        assert "left" not in page.ask(SAID)

    kept = page.host.get(f"/seppo/runs/{name}")["last"]
    agree(f"stopped at step {kept} of {LONG}: press Continue to go on")
    told = page.tab.get_by_text(f"{name}: stopped at step {kept} of {LONG}: press Continue")
    page.wait_for("() => !document.querySelector('.p-toast-message')", timeout=30_000)
    page.queue()
    told.first.wait_for()
    page.host.until(lambda: not page.host.running(), 60, "the queue is empty")
    assert page.host.get(f"/seppo/runs/{name}")["last"] == kept
    page.shot("run_stopped")
    panel(page).locator("[data-testid=run-continue]").click()
    until_step(page, kept + 1)
    panel(page).locator("[data-testid=run-stop]").click()
    until_state(page, "stopped")

    kept = page.host.get(f"/seppo/runs/{name}")["last"]
    page.tab.locator(f"[data-run='{name}'] [data-testid=row-continue]").click()
    agree(f"waiting at step {kept} of {LONG}: press Run to go on")
    page.queue()
    until_step(page, kept + 1)
    panel(page).locator("[data-testid=run-cancel]").click()
    until_state(page, "cancelled")
    kept = page.host.get(f"/seppo/runs/{name}")["step"]
    agree(f"cancelled at step {kept} of {LONG}: press Run to go on")
