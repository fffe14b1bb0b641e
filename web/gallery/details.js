// What one picture tells of itself.

import { element } from "../shared/dom.js";
import { giveUp } from "./loads.js";
import { pictureView } from "./picture.js";

const ROWS = {
  Prompt: (picture, row) => row.prompt,
  Negative: (picture, row) => row.negative,
  Model: (picture, row) => row.model,
  Seed: (picture, row) => row.seed,
  Steps: (picture, row) => row.steps,
  CFG: (picture, row) => row.cfg,
  Sampler: (picture, row) => [row.sampler, row.scheduler].filter(Boolean).join(", "),
  Pixels: (picture, row) => row.width && `${row.width} x ${row.height}`,
  Date: (picture) => new Date(picture.time).toLocaleString(),
  File: (picture) => picture.address,
  "No prompt": (picture, row) => row.reason,
};
const PATIENCE = 150;

export class Details {
  constructor() {
    this.image = element("div", { className: "seppo-details-image" });
    this.list = element("dl");
    this.element = element(
      "aside",
      { className: "seppo-details", ariaLabel: "About the picture", data: { testid: "seppo-details" } },
      this.image,
      this.list
    );
  }

  /** `row` may come later than the picture. A large copy is asked for once the eye rests on it. */
  show(picture, row = {}) {
    const key = `${picture.address} ${picture.version}`;
    if (key !== this.shown) {
      this.shown = key;
      this.dispose();
      this.image.replaceChildren(); // not another picture above this one's words
      this.timer = setTimeout(() => this.image.replaceChildren(pictureView(picture, 1024)), PATIENCE);
    }
    const rows = Object.entries(ROWS).map(([name, of]) => [name, of(picture, row)]);
    const told = rows.filter(([, value]) => value !== undefined && value !== null && value !== "");
    if (JSON.stringify(told) === this.told) return; // a selection of its text stays
    this.told = JSON.stringify(told);
    this.list.replaceChildren(
      ...told.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))])
    );
  }

  dispose() {
    clearTimeout(this.timer);
    giveUp(this.image);
  }
}
