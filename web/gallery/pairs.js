// Two pictures of one prompt side by side: the better one meets the next, and the last one standing is marked.

import { button, element } from "../shared/dom.js";
import { giveUp } from "./loads.js";
import { pictureView } from "./picture.js";

/** Pictures of the same prompt, oldest first; only where there are at least two. */
export function groupsOf(pictures, about) {
  const groups = new Map();
  for (const picture of [...pictures].reverse()) {
    const prompt = about.get(picture.address)?.prompt?.trim();
    if (!prompt) continue;
    if (!groups.has(prompt)) groups.set(prompt, []);
    groups.get(prompt).push(picture);
  }
  return [...groups.values()].filter((group) => group.length > 1);
}

/** The next two to compare, and how many comparisons are left: { pair, left }. */
export function nextPair(groups, choices, skipped) {
  const better = new Map(choices.map((pair) => [keyOf(...pair), pair[0]]));
  let found = null;
  let left = 0;
  for (const group of groups) {
    let best = group[0];
    for (const next of group.slice(1)) {
      const key = keyOf(best.address, next.address);
      if (skipped.has(key)) continue;
      if (!better.has(key)) {
        found ??= [best, next];
        left += 1;
      } else if (better.get(key) === next.address) best = next;
    }
  }
  return { pair: found, left };
}

function keyOf(...addresses) {
  return addresses.sort().join("\n");
}

export class Pairs {
  /** `material()` gives { pictures, about, choices }; `change(change)` is told each choice. */
  constructor({ material, change, leave }) {
    Object.assign(this, { material, change });
    this.skipped = new Set();
    this.prompt = element("p", { className: "seppo-pair-prompt", data: { testid: "seppo-pair-prompt" } });
    this.left = element("span", { className: "seppo-dim", role: "status" });
    this.sides = element("div", { className: "seppo-pair" });
    const act = (label, press, testid) => button(label, press, { data: { testid } });
    this.element = element(
      "div",
      { className: "seppo-ab", tabIndex: -1, data: { testid: "seppo-pairs" }, on: { keydown: (event) => this.key(event) } },
      this.prompt,
      this.sides,
      element(
        "div",
        { className: "seppo-row" },
        act("Skip (0)", () => this.skip(), "seppo-pair-skip"),
        act("Back to all (Esc)", leave, "seppo-pair-leave"),
        this.left
      )
    );
  }

  /** Draw the pair that is due, if it is another one than before. */
  draw() {
    const { pictures, about, choices } = this.material();
    const { pair, left } = nextPair(groupsOf(pictures, about), choices, this.skipped);
    this.left.textContent = pair ? `${left} comparisons left at most` : "";
    const key = pair ? keyOf(...pair.map((picture) => picture.address)) : "";
    if (key === this.shown) return;
    this.shown = key;
    this.pair = pair && left % 2 ? [...pair].reverse() : pair; // so that neither side is the favourite's
    this.prompt.textContent = pair
      ? about.get(pair[0].address).prompt
      : "Nothing is left to compare: there are no two pictures of one prompt that were not compared.";
    giveUp(this.sides);
    this.sides.replaceChildren(...(this.pair ?? []).map((picture, side) => this.side(picture, side)));
    if (!document.activeElement?.matches("input, select")) this.element.focus(); // who narrows down goes on typing
  }

  side(picture, side) {
    return element(
      "button",
      {
        type: "button",
        className: "seppo-side",
        ariaLabel: `${side ? "Right" : "Left"} is better: ${picture.name}`,
        data: { testid: `seppo-side-${side + 1}`, address: picture.address },
        on: { click: () => this.take(side) },
      },
      pictureView(picture, 1024),
      element("span", {}, `${side + 1}: ${picture.name}`)
    );
  }

  key(event) {
    const acts = {
      1: () => this.take(0),
      ArrowLeft: () => this.take(0),
      2: () => this.take(1),
      ArrowRight: () => this.take(1),
      0: () => this.skip(),
      ArrowDown: () => this.skip(),
    };
    if (!(event.key in acts) || event.repeat || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    acts[event.key]();
  }

  dispose() {
    giveUp(this.sides);
  }

  take(side) {
    if (!this.pair) return;
    const choice = [this.pair[side], this.pair[1 - side]].map((picture) => picture.address);
    this.change({ choose: [choice] });
    this.draw();
  }

  skip() {
    if (!this.pair) return;
    this.skipped.add(this.shown);
    this.draw();
  }
}
