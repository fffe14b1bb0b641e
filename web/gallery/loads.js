// Pictures on their way from the server: a few at a time, what is seen first, and none that is no longer wanted.

import { address } from "../shared/api.js";

/** Browsers keep six connections to a server; marks and prompts need some of them. */
const AT_ONCE = 4;
/** Milliseconds; what is scrolled past sooner is never asked for. */
const REST = 60;

const wanted = new Map(); // image -> { route, timer }
const waiting = new Set(); // images that are next
const running = new Set();

/** Give an image its picture, once it is its turn. Its own events tell how that went. */
export function load(image, route) {
  for (const end of ["load", "error"]) image.addEventListener(end, () => forget(image), { once: true });
  const timer = setTimeout(() => {
    waiting.add(image);
    next();
  }, REST);
  wanted.set(image, { route, timer });
}

/** What is below `box` goes away: its pictures are not asked for any more, and those on their way are given up. */
export function giveUp(box) {
  for (const image of box.querySelectorAll("img")) {
    if (running.has(image)) image.removeAttribute("src"); // or it goes on, unseen
    forget(image);
  }
}

function forget(image) {
  clearTimeout(wanted.get(image)?.timer);
  for (const known of [wanted, waiting, running]) known.delete(image);
  next();
}

function next() {
  while (running.size < AT_ONCE && waiting.size) {
    const [image] = [...waiting].sort((a, b) => unseen(a) - unseen(b));
    waiting.delete(image);
    running.add(image);
    image.src = address(wanted.get(image).route);
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
