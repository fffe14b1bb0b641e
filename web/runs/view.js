// One run as a panel: state, buttons, curves, samples with their verdict, the anchor's map, test prompts over time.

import { address, api, post } from "../shared/api.js";
import { button, claimRoom, element, oncePerFrame, styles, tell } from "../shared/dom.js";
import { CHARTS, Chart, drawMap } from "./charts.js";

const CURVES = [
  { title: "loss", columns: { loss: "loss" } },
  { title: "winner margin", columns: { winner_margin: "winner margin", winner_margin_floor: "rounding alone", "-winner_margin_floor": "" }, band: true },
  { title: "sample margin", columns: { sample_margin_losing: "losing", sample_margin_winning: "learned" } },
  { title: "flip rate", columns: { flip_rate: "flip rate" } },
];
const SAMPLES_SHOWN = 12;
const PACE_STEPS = 20;

/** Let a stopped run go on; `then` does what is left to do, else its Run is for the user to press. */
export async function goOn(name, then) {
  await post(`/seppo/runs/${encodeURIComponent(name)}/continue`);
  if (then) await then();
  else tell("info", `${name} goes on with the next Run of its graph.`);
}

/** A panel that shows `run` (or nothing yet) and follows it until `dispose`. */
export class RunView {
  constructor() {
    this.charts = CURVES.map(({ title, columns, band }) => new Chart(title, Object.values(columns), band));
    this.head = element("div", { className: "seppo-run-head", data: { testid: "run-state" } });
    this.stop = button("Stop and keep", () => this.#stop(), { title: "End after this step and go on with what was learned", data: { testid: "run-stop" } });
    this.cancel = button("Cancel", () => api.interrupt(null), { title: "Cancel the graph; the run can be continued", data: { testid: "run-cancel" } });
    this.goOn = button("Continue", () => this.#goOn(), { title: "Let the stopped run go on to its last step", data: { testid: "run-continue" } });
    this.samples = element("div", { className: "seppo-strip", data: { testid: "run-samples" } });
    this.map = element("canvas", { className: "seppo-map", data: { testid: "run-map" } });
    this.mapBox = element("div", { className: "seppo-block" }, element("div", { className: "seppo-dim" }, "ahead of the reference: winner (down) by noise level (right: more)"), this.map);
    this.tests = new TestStrip();
    this.box = element(
      "div",
      { className: "seppo seppo-run" },
      styles(CHARTS),
      this.head,
      element("div", { className: "seppo-row" }, this.stop, this.cancel, this.goOn),
      this.samples,
      this.tests.box,
      element("div", { className: "seppo-charts" }, ...this.charts.map((chart) => chart.box)),
      this.mapBox
    );
    this.redraw = oncePerFrame(() => this.#draw());
    new ResizeObserver(oncePerFrame(() => claimRoom(this.box))).observe(this.box);
    this.#draw();
  }

  /** What the server says as long as no run of the panel is to be shown: waiting, encoding, nothing yet. Older words than a run's are dropped. */
  tell(standing, asked) {
    if (asked < this.shown) return;
    this.standing = standing;
    this.redraw();
  }

  show(run) {
    this.standing = null;
    this.shown = performance.now();
    if (this.run === run) return this.redraw();
    this.run?.removeEventListener("change", this.redraw);
    this.samples.replaceChildren();
    this.run = run;
    run.addEventListener("change", this.redraw);
    if (!run.whole) run.fill().catch((error) => tell("warn", error.message));
    this.redraw();
  }

  /** Follow no run any more; `show` follows one again. */
  dispose() {
    this.run?.removeEventListener("change", this.redraw);
    this.run = null;
    for (const chart of this.charts) chart.dispose();
  }

  async #stop() {
    await post(`/seppo/runs/${encodeURIComponent(this.run.name)}/stop`);
    tell("info", `${this.run.name} ends after this step.`);
  }

  async #goOn() {
    await goOn(this.run.name, this.onContinue);
  }

  #draw() {
    const { run } = this;
    const told = this.standing ?? run;
    const buttons = { stop: this.stop, cancel: this.cancel, continue: this.goOn };
    for (const [action, pressed] of Object.entries(buttons)) pressed.hidden = !told?.actions.includes(action);
    for (const part of [this.mapBox, this.samples]) part.hidden = !run;
    this.tests.box.hidden = !run?.tests.length;
    this.head.textContent = this.standing ? this.standing.text : run ? headline(run) : "";
    this.head.dataset.state = told?.state ?? "";
    if (!run) return;
    this.head.dataset.step = run.last;
    const { metrics } = run;
    CURVES.forEach(({ columns }, i) => {
      const values = Object.keys(columns).map((name) => valuesOf(metrics, name));
      this.charts[i].box.hidden = !values.some((column) => column.some((value) => value !== null));
      if (!this.charts[i].box.hidden) this.charts[i].set([metrics.step, ...values]);
    });
    this.#drawSamples(run);
    this.#drawMap(run);
    this.tests.show(run);
    claimRoom(this.box);
  }

  #drawSamples(run) {
    const wanted = run.samples.slice(-SAMPLES_SHOWN).reverse();
    const old = new Map([...this.samples.children].map((child) => [child.line, child]));
    this.samples.replaceChildren(...wanted.map((line) => old.get(line) ?? sample(run, line)));
  }

  #drawMap(run) {
    const winners = drawMap(this.map, run.cells, run.levels);
    this.mapBox.hidden = !winners.length;
    this.map.style.height = `${Math.min(160, Math.max(24, winners.length * 10))}px`;
    this.map.title = winners.map((winner) => run.captions[winner] ?? `winner ${winner}`).join("\n");
    this.map.dataset.winners = winners.length;
  }
}

/** A column of the metrics, nulls where there is none; with a minus before its name, below zero. */
function valuesOf(metrics, name) {
  if (!name.startsWith("-")) return metrics[name] ?? new Array(metrics.step.length).fill(null);
  return valuesOf(metrics, name.slice(1)).map((value) => value && -value);
}

function headline(run) {
  const parts = [run.name, run.text].filter(Boolean);
  const seconds = (run.metrics.seconds ?? []).slice(-PACE_STEPS);
  if (seconds.length) {
    const pace = seconds.reduce((sum, value) => sum + value, 0) / seconds.length;
    parts.push(`${pace.toPrecision(2)} s a step`);
    if (run.state === "training") parts.push(`${duration(pace * (run.steps - run.last))} left`);
  }
  if (run.memory && run.state === "training") {
    const gib = (bytes) => (bytes / 2 ** 30).toFixed(1);
    parts.push(`${gib(run.memory.used)} of ${gib(run.memory.total)} GiB`);
  }
  return parts.join("  ·  ");
}

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function pictureOf(run, line) {
  return address(`/seppo/runs/${encodeURIComponent(run.name)}/pictures/${line.file}`);
}

const VERDICTS = [
  [(role) => role > 0, "loses", "pushed away"],
  [(role) => role < 0, "learned", "learned from"],
  [() => true, "left", "left out"],
];

function sample(run, line) {
  const [, kind, words] = VERDICTS.find(([holds]) => holds(line.role ?? 0));
  const verdict = line.role === undefined ? "" : words;
  return element(
    "figure",
    { className: "seppo-sample", line, title: `step ${line.step}: ${line.caption}`, data: { file: line.file, verdict: line.role === undefined ? "" : kind } },
    element("img", { src: pictureOf(run, line), alt: line.caption }),
    element("figcaption", {}, `${line.step} ${verdict}`)
  );
}

/** Test prompts, one column each, with a slider over the steps at which they were drawn. */
class TestStrip {
  constructor() {
    this.slider = element("input", { type: "range", min: 0, value: 0, ariaLabel: "step of the test pictures", data: { testid: "test-slider" }, on: { input: () => this.#draw() } });
    this.label = element("span", { className: "seppo-dim" });
    this.pictures = element("div", { className: "seppo-strip", data: { testid: "run-tests" } });
    this.box = element("div", { className: "seppo-block" }, element("div", { className: "seppo-row" }, this.slider, this.label), this.pictures);
    this.steps = [];
  }

  show(run) {
    const steps = [...new Set(run.tests.map((line) => line.step))];
    const atEnd = run !== this.run || Number(this.slider.value) >= this.steps.length - 1;
    Object.assign(this, { run, steps });
    this.slider.max = Math.max(0, steps.length - 1);
    if (atEnd) this.slider.value = this.slider.max;
    this.#draw();
  }

  #draw() {
    const step = this.steps[Number(this.slider.value)];
    if (step === undefined) return;
    this.label.textContent = step === 0 ? "the base" : `step ${step}`;
    const lines = this.run.tests.filter((line) => line.step === step);
    const key = `${this.run.name} ${step} ${lines.length}`;
    if (this.drawn === key) return;
    this.drawn = key;
    this.pictures.replaceChildren(
      ...lines.map((line) =>
        element("figure", { className: "seppo-sample", title: line.prompt, data: { file: line.file } }, element("img", { src: pictureOf(this.run, line), alt: line.prompt }), element("figcaption", {}, line.prompt))
      )
    );
  }
}
