// What the server knows of pictures and of one set. Marks are shown at once and sent at once, one after another.

import { get, post } from "../shared/api.js";

const PAUSE = 100;
/** Changes that are being sent, of this gallery or of one that was closed since. */
let onTheirWay = null;

export class Store {
  /** `changed(what)` is called after every change: "pictures", "about", "marks" or "sets"; `failed(text)` on trouble. */
  constructor(changed, failed) {
    this.changed = changed;
    this.failed = failed;
    this.open = true;
    this.pictures = [];
    this.about = new Map();
    this.left = 0;
    this.sets = [];
    this.name = "";
    this.waiting = [];
    this.sent = [];
    this.inverses = [];
    this.told = { marked: [], choices: [] };
    this.settle(this.told);
    this.leaving = () => this.waiting.length && this.send();
    window.addEventListener("pagehide", this.leaving);
  }

  /** What is not sent yet still is. */
  close() {
    this.open = false;
    window.removeEventListener("pagehide", this.leaving);
  }

  /** Every picture of a root, newest first; then what they tell, as it becomes known. */
  async list(root) {
    const turn = (this.turn = {});
    const { pictures } = await get(`/seppo/pictures?root=${root}`);
    if (!this.open || turn !== this.turn) return;
    if (root !== this.root) {
      this.about.clear();
      this.left = pictures.length;
      this.place = { edition: "", after: 0 };
    }
    this.root = root;
    this.pictures = pictures.map(([name, time, size]) => {
      const folder = name.slice(0, Math.max(0, name.lastIndexOf("/")));
      return { address: `${root}/${name}`, name, folder, time: time / 1e6, size, version: `${time}-${size}` };
    });
    this.changed("pictures");
    await this.read(root, turn);
  }

  /** Ask until the server has read everything; it reads only while it is asked. */
  async read(root, turn) {
    do {
      const { edition, after } = this.place;
      const answer = await get(`/seppo/pictures/about?root=${root}&edition=${edition}&after=${after}`);
      if (!this.open || turn !== this.turn) return;
      this.place = { edition: answer.edition, after: answer.after };
      this.left = answer.left;
      for (const row of answer.rows) this.about.set(`${root}/${row.name}`, row);
      this.changed("about");
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    } while (this.open && turn === this.turn && this.left > 0);
  }

  /** The names of all sets, the one changed last first. */
  async listSets() {
    this.sets = (await get("/seppo/sets")).sets;
    this.changed("sets");
  }

  /** Take another set, which may be a new one, once the marks of the one before are kept. */
  async take(name) {
    await onTheirWay;
    const told = await get(this.route(name));
    await onTheirWay;
    this.name = name;
    this.inverses = [];
    this.settle(told);
    this.changed("marks");
  }

  /** Change the set: { add, remove } are addresses, { choose, retract } pairs of them. */
  change(change) {
    if (!this.name) return this.failed("Give the set a name first");
    this.inverses.push(inverse(change, this.marked, this.choices));
    this.apply(change);
  }

  /** Take back the last change made to this set since it was taken. */
  undo() {
    if (this.inverses.length) this.apply(this.inverses.pop());
  }

  apply(change) {
    this.waiting.push(change);
    this.settle(this.told);
    this.changed("marks");
    onTheirWay ??= this.sendAll();
  }

  async sendAll() {
    while (this.waiting.length) await this.send();
    onTheirWay = null;
    if (this.open && this.sets.includes(this.name) !== this.marked.size > 0) await this.listSets().catch(() => {});
  }

  /** Send everything that waits, in its order, as one request. */
  async send() {
    this.sent = this.waiting;
    this.waiting = [];
    try {
      this.told = await post(this.route(this.name), this.sent);
    } catch (error) {
      this.failed(`Not saved: ${error.message}`);
    }
    this.sent = [];
    this.settle(this.told);
    if (this.open) this.changed("marks");
  }

  /** What is shown: the server's word, and on top of it what it was not told yet. */
  settle(told) {
    this.told = told;
    this.marked = new Set(told.marked);
    this.choices = [...told.choices];
    for (const change of [...this.sent, ...this.waiting]) {
      for (const address of change.remove ?? []) this.marked.delete(address);
      for (const address of change.add ?? []) this.marked.add(address);
      const decided = [...(change.retract ?? []), ...(change.choose ?? [])];
      this.choices = this.choices.filter((pair) => !decided.some((other) => samePair(pair, other)));
      this.choices.push(...(change.choose ?? []));
    }
  }

  /** Marked pictures of this root whose files are gone, so that their marks can be taken away. */
  missing() {
    const there = new Set(this.pictures.map((picture) => picture.address));
    const gone = [...this.marked].filter((address) => address.startsWith(`${this.root}/`) && !there.has(address));
    return gone.map((address) => {
      const name = address.slice(this.root.length + 1);
      return { address, name, folder: "", time: 0, size: 0, version: "gone" };
    });
  }

  route(name) {
    return `/seppo/sets/${encodeURIComponent(name)}`;
  }
}

/** What takes a change back. A mark that was won comes back with its comparison. */
function inverse({ add = [], remove = [], choose = [], retract = [] }, marked, choices) {
  const before = choices.filter((pair) => [...choose, ...retract].some((other) => samePair(pair, other)));
  const won = choices.filter(([better]) => remove.includes(better));
  const byHand = remove.filter((address) => marked.has(address) && !won.some(([better]) => better === address));
  return {
    remove: add.filter((address) => !marked.has(address)),
    add: byHand,
    retract: choose,
    choose: [...before, ...won],
  };
}

function samePair([a, b], pair) {
  return pair.includes(a) && pair.includes(b);
}

/** The route of a picture's small copy; the server makes them with sides of 256 and 1024. */
export function smallCopy({ address, version }, size = 256) {
  return `/seppo/thumbnail?address=${encodeURIComponent(address)}&size=${size}&version=${version}`;
}
