// Thousands of pictures in a grid of which only what is to be seen is on the page.

import { element, oncePerFrame } from "../shared/dom.js";
import { giveUp } from "./loads.js";
import { pictureView } from "./picture.js";

const LEAST = 160;
const GAP = 8;
const SPARE_ROWS = 2;

export class Grid {
  /** `marked()` gives a Set of addresses; `change(change)` marks; `look(picture)` shows what it tells. */
  constructor({ marked, change, look }) {
    Object.assign(this, { marked, change, look });
    this.pictures = [];
    this.cells = new Map();
    this.cursor = 0;
    this.anchor = 0;
    this.columns = 1;
    this.step = LEAST;
    this.space = element("div", { className: "seppo-grid-space" });
    this.element = element(
      "div",
      {
        className: "seppo-grid",
        tabIndex: 0,
        role: "listbox",
        ariaLabel: "Pictures",
        ariaMultiSelectable: "true",
        data: { testid: "seppo-grid" },
        on: { click: (event) => this.click(event), keydown: (event) => this.key(event) },
      },
      this.space
    );
    this.draw = oncePerFrame(() => this.drawNow());
    this.element.addEventListener("scroll", this.draw, { passive: true });
    this.element.addEventListener("pointerover", (event) => this.hover(event), { passive: true });
    this.resized = new ResizeObserver(this.draw);
    this.resized.observe(this.element);
  }

  dispose() {
    this.resized.disconnect();
    this.show([]);
    this.drawNow();
  }

  /** Another list; cursor and anchor stay at their pictures where these are still in it. */
  show(pictures) {
    const kept = [this.cursor, this.anchor].map((index) => this.pictures[index]?.address);
    this.pictures = pictures;
    const places = kept.map((address) => pictures.findIndex((picture) => picture.address === address));
    [this.cursor, this.anchor] = places.map((place) => Math.max(0, place));
    this.draw();
  }

  drawNow() {
    const { clientWidth, clientHeight, scrollTop } = this.element;
    this.columns = Math.max(1, Math.floor((clientWidth - GAP) / (LEAST + GAP)));
    const step = (this.step = Math.max(LEAST, Math.floor((clientWidth - GAP) / this.columns)));
    this.rows = Math.max(1, Math.floor(clientHeight / step));
    this.space.style.height = `${Math.ceil(this.pictures.length / this.columns) * step + GAP}px`;
    const first = Math.max(0, Math.floor(scrollTop / step) - SPARE_ROWS) * this.columns;
    const last = (Math.ceil((scrollTop + clientHeight) / step) + SPARE_ROWS) * this.columns;
    const shown = new Map(this.pictures.slice(first, last).map((picture, i) => [picture.address, [picture, first + i]]));
    for (const [address, cell] of this.cells) {
      if (shown.get(address)?.[0].version === cell.dataset.version) continue;
      giveUp(cell);
      cell.remove();
      this.cells.delete(address);
    }
    const marked = this.marked();
    for (const [picture, index] of shown.values()) this.drawCell(picture, index, marked.has(picture.address));
    const here = this.pictures[this.cursor];
    this.element.setAttribute("aria-activedescendant", this.cells.get(here?.address)?.id ?? "");
  }

  drawCell(picture, index, isMarked) {
    if (!this.cells.has(picture.address)) this.cells.set(picture.address, this.newCell(picture));
    const cell = this.cells.get(picture.address);
    cell.id = `seppo-cell-${index}`;
    cell.style.left = `${GAP + (index % this.columns) * this.step}px`;
    cell.style.top = `${GAP + Math.floor(index / this.columns) * this.step}px`;
    cell.style.width = cell.style.height = `${this.step - GAP}px`;
    cell.ariaSelected = String(isMarked);
    cell.ariaPosInSet = index + 1;
    cell.ariaSetSize = this.pictures.length;
    cell.classList.toggle("seppo-here", index === this.cursor);
  }

  newCell(picture) {
    const cell = element(
      "div",
      {
        className: "seppo-cell",
        role: "option",
        title: picture.name,
        data: { testid: "seppo-cell", address: picture.address, version: picture.version },
      },
      pictureView(picture),
      element("span", { className: "seppo-mark", ariaHidden: "true" }, "\u2713")
    );
    this.space.append(cell);
    return cell;
  }

  click(event) {
    const index = this.under(event);
    if (index < 0) return;
    this.go(index);
    this.mark(event.shiftKey);
  }

  hover(event) {
    const index = this.under(event);
    if (index >= 0) this.look(this.pictures[index]);
  }

  /** Where the picture that is seen under the pointer is in the list, which may be newer than what is drawn; -1 if nowhere. */
  under(event) {
    const seen = event.target.closest(".seppo-cell")?.dataset.address;
    return this.pictures.findIndex((picture) => picture.address === seen);
  }

  key(event) {
    const last = this.pictures.length - 1;
    const moves = {
      ArrowLeft: this.cursor - 1,
      ArrowRight: this.cursor + 1,
      ArrowUp: this.cursor - this.columns,
      ArrowDown: this.cursor + this.columns,
      PageUp: this.cursor - this.columns * this.rows,
      PageDown: this.cursor + this.columns * this.rows,
      Home: 0,
      End: last,
    };
    if (event.key in moves) this.go(Math.min(last, Math.max(0, moves[event.key])));
    else if (event.key === " " || event.key === "Enter") this.mark(event.shiftKey);
    else return;
    event.preventDefault();
  }

  /** Move the cursor, and scroll so that it is seen. */
  go(index) {
    if (!this.pictures.length) return;
    this.cursor = index;
    const top = Math.floor(index / this.columns) * this.step;
    const bottom = top + this.step + GAP;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (bottom > scrollTop + clientHeight) this.element.scrollTop = bottom - clientHeight;
    this.look(this.pictures[index]);
    this.draw();
  }

  /** Toggle the cursor's mark; of a range, give all the mark that its first picture has. */
  mark(isRange) {
    const marked = this.marked();
    const here = this.pictures[this.cursor];
    if (!here) return;
    if (!isRange) {
      this.anchor = this.cursor;
      this.change(marked.has(here.address) ? { remove: [here.address] } : { add: [here.address] });
      return;
    }
    const isMarked = marked.has(this.pictures[this.anchor].address);
    const [from, to] = [this.anchor, this.cursor].sort((a, b) => a - b);
    const range = this.pictures.slice(from, to + 1).map((picture) => picture.address);
    const others = range.filter((address) => marked.has(address) !== isMarked);
    if (others.length) this.change(isMarked ? { add: others } : { remove: others });
  }
}
