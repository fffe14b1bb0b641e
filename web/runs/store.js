// What the page knows of runs: filled from the server's record, kept up by its messages.

import { api, get } from "../shared/api.js";

/** Emits "change" after new data, at most once a message. */
export class Run extends EventTarget {
  constructor(name) {
    super();
    this.name = name;
    this.clear();
  }

  clear() {
    this.summary = {};
    this.metrics = { step: [] };
    this.samples = [];
    this.tests = [];
    this.cells = {};
    this.captions = {};
    this.levels = 8;
    this.last = 0;
    this.memory = null;
    this.whole = false;
    this.heard = 0;
  }

  /** The server's word for how it stands with the run; its sentence is `text`. */
  get state() {
    return this.summary.state ?? "";
  }

  get text() {
    return this.summary.text ?? "";
  }

  /** What can be asked of the run now: stop, cancel, continue. */
  get actions() {
    return this.summary.actions ?? [];
  }

  get steps() {
    return this.summary.steps ?? 0;
  }

  /** Everything the server has of this run, in place of what is here. */
  async fill() {
    if (this.filling) return this.filling;
    this.early = [];
    this.filling = get(`/seppo/runs/${encodeURIComponent(this.name)}`)
      .then((found) => this.take(found))
      .finally(() => {
        this.filling = null;
        this.#takeEarly();
      });
    return this.filling;
  }

  /** What was told while the record was on its way, or instead of one that could not be had. */
  #takeEarly() {
    const early = this.early ?? [];
    this.early = null;
    for (const message of early) this.add(message);
    const { later } = this;
    this.later = null;
    if (later) this.setState(later);
  }

  take(found) {
    const { metrics, samples, tests, cells, captions, levels, last, ...summary } = found;
    Object.assign(this, { metrics, samples, tests, cells, captions, levels, last, summary });
    this.metrics.step ??= [];
    this.whole = true;
    this.dispatchEvent(new Event("change"));
  }

  /** Take a message of the server; one that leaves a gap makes the run be read anew. */
  add(message) {
    this.heard = performance.now();
    if (this.early) {
      this.early.push(message);
      return;
    }
    const rows = message.rows.filter((row) => row.step > this.last);
    if (rows.length && rows[0].step !== this.last + 1) {
      this.fill().catch(() => {});
      return;
    }
    Object.assign(this.summary, standing(message));
    this.memory = message.memory ?? this.memory;
    for (const row of rows) this.#append(row);
    for (const [step, examples] of message.examples) this.#count(step, examples, rows);
    for (const [winner, caption] of message.captions) this.captions[winner] = caption;
    replace(this.samples, message.samples);
    replace(this.tests, message.tests);
    this.dispatchEvent(new Event("change"));
  }

  setState(message) {
    this.heard = performance.now();
    if (this.filling) {
      this.later = message; // what is on its way may be older
      return;
    }
    // Going back after trouble, or the same name trained anew: what was drawn no longer holds.
    const begins = message.state === "training";
    Object.assign(this.summary, standing(message));
    if (begins || !this.whole) this.fill().catch(() => {});
    this.dispatchEvent(new Event("change"));
  }

  /** Take how the server says it stands with the run, unless a message came after it was asked; of another process's steps the record tells. */
  stands(found, asked) {
    if (asked < this.heard) return;
    const { state, step } = this.summary;
    Object.assign(this.summary, standing(found));
    const elsewhere = [state, found.state].includes("elsewhere"); // which sends this page nothing
    if (this.whole && elsewhere && (state !== found.state || step !== found.step)) this.fill().catch(() => {});
    this.dispatchEvent(new Event("change"));
  }

  #append(row) {
    const before = this.metrics.step.length;
    for (const [name, value] of Object.entries(row)) {
      this.metrics[name] ??= new Array(before).fill(null);
      this.metrics[name].push(value);
    }
    this.last = row.step;
  }

  #count(step, examples, rows) {
    if (!rows.some((row) => row.step === step)) return; // counted already
    for (const [winner, level, margin] of examples) {
      const place = `${winner},${Math.min(Math.floor(level * this.levels), this.levels - 1)}`;
      const cell = (this.cells[place] ??= [0, 0]);
      cell[0] += 1;
      cell[1] += margin < 0 ? 1 : 0;
    }
  }
}

/** Of a message what it tells of the run as a whole. */
function standing({ state, text, step, steps, actions, training, panel }) {
  return Object.fromEntries(Object.entries({ state, text, step, steps, actions, training, panel }).filter(([, value]) => value !== undefined));
}

function replace(lines, more) {
  for (const line of more) {
    const place = lines.findIndex((other) => other.file === line.file);
    if (place < 0) lines.push(line);
    else lines[place] = line;
  }
}

/** Every run the page has heard of, by name. Emits "step", "list" when a run begins or ends, "queue" when the host's queue moves. */
class Store extends EventTarget {
  constructor() {
    super();
    this.runs = new Map();
  }

  run(name) {
    if (!this.runs.has(name)) this.runs.set(name, new Run(name));
    return this.runs.get(name);
  }

  list() {
    return get("/seppo/runs");
  }

  /** How it stands with panels, by their ids: what the queue or their run says. */
  panels(ids) {
    return get(`/seppo/panels?${ids.map((id) => `panel=${encodeURIComponent(id)}`).join("&")}`);
  }

  listen() {
    api.addEventListener("seppo.step", ({ detail }) => {
      this.run(detail.run).add(detail);
      this.dispatchEvent(new CustomEvent("step", { detail }));
    });
    api.addEventListener("seppo.run", ({ detail }) => {
      this.run(detail.run).setState(detail);
      this.dispatchEvent(new CustomEvent("list", { detail }));
    });
    api.addEventListener("status", () => this.dispatchEvent(new Event("queue")));
    api.addEventListener("reconnected", () => {
      for (const run of this.runs.values()) if (run.whole) run.fill().catch(() => {});
      this.dispatchEvent(new CustomEvent("list", { detail: {} }));
    });
  }
}

export const store = new Store();
