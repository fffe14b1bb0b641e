// Pictures on their way from the server: a few at a time, what is seen first, and none that is no longer wanted.

import { address } from "../shared/api.js";

/** Browsers keep six connections to a server; marks and prompts need some of them. */
const AT_ONCE = 4;
/** Milliseconds that changes are gathered; what is scrolled past sooner is never asked for. */
const REST = 60;

const routes = new Map(); // of every image that is wanted
const waiting = new Set();
const running = new Set();
let resting = null;

/** Give an image its picture, once it is its turn. Its own events tell how that went. */
export function load(image, route) {
  for (const end of ["load", "error"]) image.addEventListener(end, () => ended(image), { once: true });
  routes.set(image, route);
  waiting.add(image);
  soon();
}

/** What is below `box` goes away: its pictures are not asked for any more, and those on their way are given up. */
export function giveUp(box) {
  for (const image of box.querySelectorAll("img")) {
    if (running.has(image)) image.removeAttribute("src"); // or it goes on, unseen
    forget(image);
  }
  soon();
}

function ended(image) {
  forget(image);
  if (!resting) next();
}

function forget(image) {
  for (const known of [routes, waiting, running]) known.delete(image);
}

function soon() {
  resting ??= setTimeout(() => {
    resting = null;
    next();
  }, REST);
}

function next() {
  while (running.size < AT_ONCE && waiting.size) {
    const [image] = [...waiting].sort((a, b) => unseen(a) - unseen(b));
    waiting.delete(image);
    running.add(image);
    image.src = address(routes.get(image));
  }
}

/** Pixels between an image and what is seen of its grid; without a grid it is seen. */
function unseen(image) {
  if (!image.isConnected) return Infinity;
  const grid = image.closest(".seppo-grid")?.getBoundingClientRect();
  if (!grid) return 0;
  const { top, bottom } = image.getBoundingClientRect();
  return Math.max(0, top - grid.bottom, grid.top - bottom);
}
