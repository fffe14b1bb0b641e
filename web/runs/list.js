// The list of runs: settings, curves of several over each other, a run into the graph with one click.

import { button, element, oncePerFrame, styles, tell } from "../shared/dom.js";
import { CHARTS, Chart } from "./charts.js";
import { store } from "./store.js";
import { goOn, RunView } from "./view.js";

const COMPARED = ["loss", "winner_margin", "flip_rate", "implicit_accuracy", "held_out_margin", "grad_norm"];
const ELSEWHERE_EVERY = 3000; // milliseconds; another process tells this page nothing

/** Fills `box` and follows the server until `dispose`. */
export class RunList {
  constructor(box) {
    this.box = box;
    this.chosen = new Set();
    this.metric = element("select", { className: "seppo-select", ariaLabel: "curve to compare", data: { testid: "compare-metric" }, on: { change: () => this.#compare() } }, ...COMPARED.map((name) => element("option", { value: name }, name.replaceAll("_", " "))));
    this.comparison = element("div", { className: "seppo-block" });
    this.rows = element("div", { data: { testid: "run-list" } });
    this.view = new RunView();
    this.view.box.hidden = true;
    box.classList.add("seppo", "seppo-list");
    box.replaceChildren(styles(CHARTS), element("div", { className: "seppo-row" }, button("Refresh", () => this.refresh()), this.metric), this.comparison, this.rows, this.view.box);
    this.onList = () => this.refresh().catch(() => {});
    this.onStep = ({ detail }) => this.#told(detail);
    this.compare = oncePerFrame(() => this.#compare());
    store.addEventListener("list", this.onList);
    store.addEventListener("step", this.onStep);
    this.refresh().catch((error) => tell("error", error.message));
  }

  dispose() {
    store.removeEventListener("list", this.onList);
    store.removeEventListener("step", this.onStep);
    clearTimeout(this.again);
    this.turn = null;
    for (const name of this.chosen) store.run(name).removeEventListener("change", this.compare);
    this.chart?.dispose();
    this.view.dispose();
  }

  async refresh() {
    const turn = (this.turn = {});
    const asked = performance.now();
    const runs = await store.list();
    if (turn !== this.turn) return; // asked again meanwhile, or closed
    clearTimeout(this.again);
    for (const run of runs) store.runs.get(run.name)?.stands(run, asked);
    if (runs.some((run) => run.state === "elsewhere")) this.again = setTimeout(this.onList, ELSEWHERE_EVERY);
    const rows = runs.map((run) => this.#row(run));
    this.rows.replaceChildren(...(rows.length ? rows : [element("p", { className: "seppo-dim" }, "No runs yet. SePPO Train makes one.")]));
  }

  #row(run) {
    const tick = element("input", { type: "checkbox", checked: this.chosen.has(run.name), ariaLabel: `compare ${run.name}`, data: { testid: "run-tick" } });
    tick.addEventListener("change", () => this.#choose(run.name, tick.checked));
    return element(
      "div",
      { className: "seppo-run-row", data: { run: run.name } },
      element("div", { className: "seppo-row" }, tick, element("strong", {}, run.name), element("span", { className: "seppo-dim", data: { testid: "run-row-state", state: run.state } }, run.text)),
      element("div", { className: "seppo-dim" }, told(run)),
      element("div", { className: "seppo-row" }, button("Show", () => this.#show(run.name), { data: { testid: "run-show" } }), button("Load into graph", () => loadIntoGraph(run.name), { data: { testid: "run-load" } }), run.actions.includes("continue") ? button("Continue", () => goOn(run.name), { title: "Let the stopped run go on with the next Run of its graph", data: { testid: "row-continue" } }) : null),
      run.snapshots.length ? element("div", { className: "seppo-row" }, element("span", { className: "seppo-dim" }, "snapshots"), ...run.snapshots.map((step) => snapshotButton(run.name, step))) : null
    );
  }

  /** The row of a run that trains says what its panel says. */
  #told({ run, text, state }) {
    const row = [...this.rows.children].find((one) => one.dataset.run === run)?.querySelector("[data-testid=run-row-state]");
    if (!row || text === undefined) return;
    row.textContent = text;
    row.dataset.state = state;
  }

  #show(name) {
    this.view.box.hidden = false;
    this.view.show(store.run(name));
    this.view.box.scrollIntoView({ block: "nearest" });
  }

  async #choose(name, wanted) {
    const run = store.run(name);
    if (wanted) {
      this.chosen.add(name);
      run.addEventListener("change", this.compare);
      if (!run.whole) await run.fill();
    } else {
      this.chosen.delete(name);
      run.removeEventListener("change", this.compare);
    }
    this.#compare();
  }

  #compare() {
    const runs = [...this.chosen].map((name) => store.run(name)).filter((run) => run.metrics.step.length);
    const key = runs.map((run) => run.name).join("\n") + this.metric.value;
    if (key !== this.compared) {
      this.chart?.dispose();
      this.chart = runs.length ? new Chart(this.metric.value.replaceAll("_", " "), runs.map((run) => run.name)) : null;
      this.comparison.replaceChildren(...(this.chart ? [this.chart.box] : []));
      this.compared = key;
    }
    this.chart?.set(aligned(runs, this.metric.value));
  }
}

/** One column of steps for all runs, and each run's values at them. */
function aligned(runs, metric) {
  const steps = [...new Set(runs.flatMap((run) => run.metrics.step))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, i) => [step, i]));
  const columns = runs.map((run) => {
    const column = new Array(steps.length).fill(null);
    run.metrics.step.forEach((step, i) => {
      column[place.get(step)] = run.metrics[metric]?.[i] ?? null;
    });
    return column;
  });
  return [steps, ...columns];
}

function told({ settings, winners, base }) {
  const { ["loss.objective"]: objective, ["loss.criterion"]: criterion, ["loss.paired"]: paired } = settings;
  const method = objective === "winner_error" ? "fine-tuning" : paired ? "pairs" : `${settings["references.selection"]} + ${criterion}`;
  return [
    method,
    `lr ${settings["optimizer.learning_rate"]}`,
    `rank ${settings["lora.rank"]}`,
    objective === "winner_error" ? null : `beta ${settings["loss.beta"]}`,
    `batch ${settings.batch_size}`,
    `${winners} winners`,
    base,
  ]
    .filter(Boolean)
    .join("  ·  ");
}

function snapshotButton(name, step) {
  const title = "Into the graph: a SePPO Save Aligned that makes a LoRA of this step";
  return button(`step ${step}`, () => loadSnapshot(name, step), { title, data: { testid: "run-snapshot", step } });
}

/** A Load Run node with this run: the selected one, else a new one in the middle of what is seen. */
function loadIntoGraph(name) {
  const selected = Object.values(window.app.canvas.selected_nodes ?? {}).find((node) => node.comfyClass === "SePPOLoadRun");
  const node = selected ?? added("SePPOLoadRun", -100);
  const widget = node.widgets.find((one) => one.name === "run_name");
  if (Array.isArray(widget.options?.values) && !widget.options.values.includes(name)) widget.options.values.push(name);
  choose(node, "run_name", name);
  tell("success", `${name} is in the graph: SePPO Load Run.`);
  return node;
}

/** Load Run, and a Save Aligned linked to it that takes the weights of a snapshot. */
function loadSnapshot(name, step) {
  const run = loadIntoGraph(name);
  const save = added("SePPOSaveAligned", 250);
  choose(save, "snapshot", step);
  run.connect(0, save, save.inputs.findIndex((input) => input.name === "run"));
}

/** A new node, `aside` pixels from the middle of what is seen. */
function added(kind, aside) {
  const { app, LiteGraph } = window;
  const node = LiteGraph.createNode(kind);
  const [x, y, width, height] = app.canvas.visible_area;
  node.pos = [x + width / 2 + aside, y + height / 2 - 50];
  app.graph.add(node);
  return node;
}

function choose(node, name, value) {
  const widget = node.widgets.find((one) => one.name === name);
  widget.value = value;
  widget.callback?.(value);
  window.app.graph.setDirtyCanvas(true, true);
}
