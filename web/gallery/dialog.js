// The gallery's window over the page: pictures, filters, the set they are marked in, and pairs.

import { api } from "../shared/api.js";
import { button, element, oncePerFrame, sheet, styles } from "../shared/dom.js";
import { Details } from "./details.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { Pairs } from "./pairs.js";
import { Store } from "./store.js";

const SHEET = await sheet("./gallery.css", import.meta.url);
const ROOTS = { output: "Output", input: "Input" };
const FAVOURITES = "favourites";

export class Gallery {
  /** `name`: of the set, or nothing for the one changed last. `taken(name)`: another set is taken; `closed()`: all is over. */
  constructor({ name, taken, closed }) {
    Object.assign(this, { name, taken, closed });
    this.store = new Store((what) => this.changed(what), (text) => this.alert(text));
    const marked = () => this.store.marked;
    const change = (wanted) => {
      this.alert("");
      this.store.change(wanted);
    };
    this.details = new Details();
    this.filters = new Filters(() => this.draw());
    this.grid = new Grid({ marked, change, look: (picture) => this.look(picture) });
    this.pairs = new Pairs({ material: () => this.material(), change, leave: () => this.compare(false) });
    this.build();
    this.draw = oncePerFrame(() => this.drawNow());
    this.finished = () => this.list();
  }

  build() {
    this.root = element("select", { className: "seppo-field", data: { testid: "seppo-root" }, on: { change: () => this.list() } });
    this.root.append(...Object.entries(ROOTS).map(([value, label]) => element("option", { value }, label)));
    this.names = element("datalist", { id: "seppo-set-names" });
    this.set = element("input", { className: "seppo-field", data: { testid: "seppo-set" }, on: { change: () => this.take() } });
    this.set.setAttribute("list", this.names.id);
    this.count = element("span", { role: "status", data: { testid: "seppo-count" } });
    this.progress = element("span", { className: "seppo-dim", data: { testid: "seppo-progress" } });
    this.trouble = element("span", { className: "seppo-trouble", role: "alert", data: { testid: "seppo-trouble" } });
    this.dialog = new window.comfyAPI.ui.ComfyDialog("dialog", []).element; // the host puts it on its page
    Object.assign(this.dialog, { className: "seppo seppo-gallery", ariaLabel: "SePPO gallery" });
    this.dialog.dataset.testid = "seppo-gallery";
    this.dialog.replaceChildren(
      styles(SHEET),
      this.toolbar(),
      this.filters.element,
      element("div", { className: "seppo-row" }, this.count, this.progress, this.trouble),
      (this.body = element("div", { className: "seppo-gallery-body" }, this.grid.element, this.details.element))
    );
    this.listen();
  }

  toolbar() {
    const act = (label, press, testid) => button(label, press, { data: { testid } });
    return element(
      "div",
      { className: "seppo-row" },
      element("strong", {}, "Pick winners"),
      element("label", {}, "Set ", this.set, this.names),
      element("label", {}, "Pictures of ", this.root),
      act("A/B (A)", () => this.compare(!this.pairs.element.isConnected), "seppo-compare"),
      act("Undo (U)", () => this.store.undo(), "seppo-undo"),
      act("Refresh", () => this.list(), "seppo-refresh"),
      element("span", { className: "seppo-dim seppo-wide" }, "click or space marks, shift takes a range, Esc closes"),
      act("Close", () => this.close(), "seppo-close")
    );
  }

  /** No key and no wheel reaches the graph behind the gallery. */
  listen() {
    const own = (event) => event.stopPropagation();
    for (const type of ["keyup", "keypress", "wheel", "copy", "cut", "paste", "pointerdown", "contextmenu"])
      this.dialog.addEventListener(type, own);
    this.dialog.addEventListener("keydown", (event) => this.key(event));
    this.dialog.addEventListener("cancel", (event) => event.preventDefault());
    this.strayed = (event) => {
      if (this.dialog.contains(event.target)) return;
      event.stopImmediatePropagation();
      this.focus();
    };
  }

  async show() {
    this.dialog.showModal();
    this.focus();
    window.addEventListener("keydown", this.strayed, true);
    api.addEventListener("execution_success", this.finished);
    await this.attempt(() => Promise.all([this.begin(), this.store.list(this.root.value)]));
  }

  async begin() {
    this.set.value = this.name ?? "";
    try {
      await this.store.listSets();
      await this.store.take(this.name || this.store.sets[0] || FAVOURITES);
    } finally {
      this.begun = true;
      this.draw();
    }
    this.set.value = this.store.name;
    if (this.name !== this.store.name) this.taken(this.store.name);
  }

  close() {
    this.store.close();
    this.grid.dispose();
    this.details.dispose();
    this.pairs.dispose();
    window.removeEventListener("keydown", this.strayed, true);
    api.removeEventListener("execution_success", this.finished);
    this.dialog.close();
    this.dialog.remove();
    this.closed();
  }

  focus() {
    (this.pairs.element.isConnected ? this.pairs.element : this.grid.element).focus();
  }

  key(event) {
    event.stopPropagation();
    const acts = {
      Escape: () => (this.pairs.element.isConnected ? this.compare(false) : this.close()),
      a: () => this.compare(!this.pairs.element.isConnected),
      u: () => this.store.undo(),
    };
    const isWritten = event.target.matches("input:not([type=checkbox]), select");
    if (!(event.key in acts) || event.ctrlKey || event.metaKey || (isWritten && event.key !== "Escape")) return;
    event.preventDefault();
    acts[event.key]();
  }

  list() {
    return this.attempt(() => this.store.list(this.root.value));
  }

  /** Take the set whose name was typed; the one before stays if that cannot be. */
  async take() {
    const name = this.set.value.trim();
    const isTaken = name && (await this.attempt(() => this.store.take(name)));
    if (isTaken) this.taken(name);
    this.set.value = this.store.name;
  }

  compare(isOn) {
    this.body.replaceChildren(...(isOn ? [this.pairs.element] : [this.grid.element, this.details.element]));
    this.pairs.shown = null;
    this.drawNow();
    this.focus();
  }

  look(picture) {
    this.looked = picture;
    this.details.show(picture, this.store.about.get(picture.address));
  }

  changed(what) {
    if (what === "sets") this.names.replaceChildren(...this.store.sets.map((value) => element("option", { value })));
    else this.draw();
  }

  material() {
    return { pictures: this.shown ?? [], about: this.store.about, choices: this.store.choices };
  }

  drawNow() {
    if (!this.store.open || !this.begun) return; // a mark made before its set is here would be lost
    const { pictures, about, marked, left } = this.store;
    this.filters.offer(pictures, about);
    const every = this.filters.only.checked ? [...pictures, ...this.store.missing()] : pictures;
    this.shown = this.filters.passed(every, about, marked);
    this.grid.show(this.shown);
    if (this.looked) this.look(this.looked);
    const narrowed = this.shown.length < pictures.length ? `, ${amount(this.shown.length)} shown` : "";
    this.count.textContent = `${amount(marked.size)} marked of ${amount(pictures.length)}${narrowed}`;
    this.progress.textContent = left ? `reading prompts: ${amount(left)} to go` : "";
    if (this.pairs.element.isConnected) this.pairs.draw();
  }

  /** Whether it went well; if not, the reason is shown. */
  async attempt(work) {
    this.trouble.textContent = "";
    try {
      await work();
      return true;
    } catch (error) {
      this.alert(error.message);
      return false;
    }
  }

  alert(text) {
    this.trouble.textContent = text;
  }
}

function amount(number) {
  return number.toLocaleString("en");
}
