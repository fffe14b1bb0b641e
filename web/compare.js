// SePPO Compare: each pair of pictures under a slider, the base to its left, the aligned model to its right.

import { address } from "./shared/api.js";
import { element, remount, showIn, styles } from "./shared/dom.js";

const { app } = window.comfyAPI.app;
const CLASS = "SePPOCompare";
const HEIGHT = 300;
const views = new Map(); // node -> PairView

app.registerExtension({
  name: "seppo.compare",
  nodeCreated(node) {
    if (node.comfyClass !== CLASS) return;
    const view = new PairView();
    showIn(node, "pairs", view.box, HEIGHT);
    // The host would show a picture of the same pairs below: by the one in its new renderer, by the other on its canvas.
    node.hideOutputImages = true;
    node.onDrawBackground = () => {};
    views.set(node, view);
    const { onExecuted, onRemoved } = node;
    node.onExecuted = function (output, ...given) {
      if (output?.seppo_pairs) view.show(output.seppo_pairs);
      return onExecuted?.call(this, output, ...given);
    };
    node.onRemoved = function (...given) {
      views.delete(node);
      return onRemoved?.apply(this, given);
    };
  },
  afterConfigureGraph() {
    for (const [node, view] of views) remount(node, view.box);
  },
});

/** One pair at a time; arrows go from pair to pair, the slider uncovers one picture over the other. */
class PairView {
  constructor() {
    this.pairs = [];
    this.at = 0;
    this.base = element("img", { alt: "base", draggable: false });
    this.aligned = element("img", { alt: "aligned", draggable: false, className: "seppo-over" });
    this.slider = element("input", { type: "range", min: 0, max: 100, value: 50, ariaLabel: "from aligned to base", data: { testid: "pair-slider" }, on: { input: () => this.#cut() } });
    this.select = element("select", { className: "seppo-select", ariaLabel: "pair", data: { testid: "pair-select" }, on: { change: () => this.#go(Number(this.select.value)) } });
    this.words = element("div", { className: "seppo-dim", data: { testid: "pair-words" } });
    this.stage = element("div", { className: "seppo-stage" }, this.base, this.aligned, element("span", { className: "seppo-corner" }, "base"), element("span", { className: "seppo-corner seppo-right" }, "aligned"));
    this.box = element("div", { className: "seppo seppo-pairs", tabIndex: 0, data: { testid: "pairs" }, on: { keydown: (event) => this.#key(event) } }, styles(), element("div", { className: "seppo-row" }, this.select), this.stage, this.slider, this.words);
    this.#draw();
  }

  show(pairs) {
    this.pairs = pairs;
    this.select.replaceChildren(...pairs.map(({ prompt, seed }, i) => element("option", { value: i }, `${prompt.slice(0, 50)} (${seed})`)));
    this.#go(Math.min(this.at, pairs.length - 1));
  }

  #go(place) {
    this.at = Math.max(0, Math.min(place, this.pairs.length - 1));
    this.select.value = this.at;
    this.#draw();
  }

  #key(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    event.stopPropagation(); // the canvas would take it
    if (!by || event.target === this.select) return;
    event.preventDefault();
    this.#go(this.at + by);
  }

  #draw() {
    const pair = this.pairs[this.at];
    this.stage.hidden = this.slider.hidden = this.select.hidden = !pair;
    this.words.textContent = pair ? told(pair) : "Run the graph to see base and aligned side by side.";
    if (!pair) return;
    this.base.src = viewOf(pair.base);
    this.aligned.src = viewOf(pair.aligned);
    this.#cut();
  }

  #cut() {
    this.aligned.style.clipPath = `inset(0 0 0 ${this.slider.value}%)`;
  }
}

function viewOf({ filename, subfolder, type }) {
  return address(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

function told({ prompt, seed, scores = {} }) {
  const lines = Object.entries(scores).map(([name, { base, aligned }]) => `${name}: ${base.toPrecision(4)} → ${aligned.toPrecision(4)}`);
  return [`${prompt} (seed ${seed})`, ...lines].join("\n");
}
