// Elements and the pack's style sheets. Text is always set as text: names and captions come from files.

/** What a style sheet beside one of our modules says; it is asked for once, and nothing is drawn before it is here. */
export async function sheet(name, base) {
  const answer = await fetch(new URL(name, base), { cache: "no-cache" }).catch(() => null);
  return answer?.ok ? answer.text() : ""; // plain, but it works
}

const SHEET = await sheet("../seppo.css", import.meta.url);

/** The pack's styles as an element to put into what they style, so that the page's head stays as it is; `before` come first. */
export function styles(...before) {
  return element("style", { textContent: [...before, SHEET].join("\n") });
}

/**
 * A new element. `properties` are set on it; `data`, `style` and `on` take objects; strings among `children` become text.
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  const { data = {}, style = {}, on = {}, ...plain } = properties;
  Object.assign(made, plain);
  Object.assign(made.dataset, data);
  Object.assign(made.style, style);
  for (const [event, listener] of Object.entries(on)) made.addEventListener(event, listener);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A button that can be pressed once at a time; what goes wrong is told to the user. */
export function button(label, press, properties = {}) {
  const made = element("button", { type: "button", className: "seppo-button", ...properties }, label);
  made.addEventListener("click", async () => {
    made.disabled = true;
    try {
      await press();
    } catch (error) {
      tell("error", error.message);
    } finally {
      made.disabled = false;
    }
  });
  return made;
}

/** A short message in the host's corner; severity is info, success, warn or error. */
export function tell(severity, detail) {
  window.app.extensionManager.toast.add({ severity, summary: "SePPO", detail, life: 6000 });
}

/** Run `draw` once before the next frame, however often the result is called. */
export function oncePerFrame(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}

/** Show `box` in a node, below its other widgets, in all of the node's width; nothing of it is saved or sent. */
export function showIn(node, name, box, height) {
  const getMinHeight = () => {
    keepSmall(node);
    return height;
  };
  const widget = node.addDOMWidget(name, `seppo_${name}`, box, { serialize: false, hideOnZoom: false, getMinHeight });
  widget.serialize = false;
  // The host's list of a node's properties draws each widget once more, and leaves the list's width in it.
  Object.defineProperty(widget, "width", { get: () => undefined, set: () => {} });
  return widget;
}

/** The host's line of text gets what it needs; by itself it takes half of the panel's room. */
function keepSmall(node) {
  const text = node.widgets?.find(({ name }) => name === "$$node-text-preview");
  if (text) text.options.getMaxHeight ??= text.options.getMinHeight;
}

const LINE = 64; // pixels, the most that another row of a node needs; what it has above that is a share of the free room

/** The new renderer shares free room among rows: let `box` have what it shows, as far as its node has that much. */
export function claimRoom(box) {
  const rows = box.closest(".lg-node-widgets")?.children ?? [];
  box.style.minHeight = "";
  if (!rows.length) return;
  const others = [...rows].filter((row) => !row.contains(box)).map((row) => Math.min(row.offsetHeight, LINE));
  const gaps = parseFloat(getComputedStyle(rows[0].parentElement).rowGap) * others.length;
  const free = rows[0].parentElement.clientHeight - others.reduce((sum, height) => sum + height, gaps);
  const shown = Math.max(...[...box.children].map((part) => part.offsetTop + part.offsetHeight));
  if (free > box.offsetHeight) box.style.minHeight = `${Math.min(free, shown + parseFloat(getComputedStyle(box).paddingBottom))}px`;
}

/** The new renderer does not mount a node's widget again after an undo: put `box` where the one like it was left. */
export function remount(node, box) {
  requestAnimationFrame(() => {
    if (box.isConnected) return;
    document.querySelector(`[data-node-id="${node.id}"] .${box.classList.item(1)}`)?.replaceWith(box);
  });
}
