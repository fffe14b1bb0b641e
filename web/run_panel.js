// The run panel on SePPO Train, and the list of runs in a sidebar tab.

import { element, remount, showIn, tell } from "./shared/dom.js";
import { RunList } from "./runs/list.js";
import { store } from "./runs/store.js";
import { RunView } from "./runs/view.js";

const { app } = window.comfyAPI.app;
const CLASS = "SePPOTrain";
const PROPERTY = "seppo_panel";
const HEIGHT = 340;
const WIDTH = 440;
const PASSING_EVERY = 1000; // milliseconds
const TOGETHER = 50;
const panels = new Map(); // node -> RunView

app.registerExtension({
  name: "seppo.runs",
  setup() {
    store.listen();
    store.addEventListener("list", ({ detail }) => hear(detail));
    store.addEventListener("step", ({ detail }) => show(detail));
    store.addEventListener("queue", ask);
    let list = null;
    app.extensionManager.registerSidebarTab({
      id: "seppo-runs",
      icon: "pi pi-chart-line",
      title: "SePPO",
      tooltip: "SePPO: runs",
      type: "custom",
      render: (box) => {
        list?.dispose();
        const inner = element("div");
        box.replaceChildren(inner);
        list = new RunList(inner);
      },
      destroy: () => {
        list?.dispose();
        list = null;
      },
    });
  },
  nodeCreated(node) {
    if (node.comfyClass !== CLASS) return;
    addPanel(node);
  },
  afterConfigureGraph() {
    for (const [node, view] of panels) {
      if (isLive(node)) remount(node, view.box);
      else drop(node, view);
    }
    ask();
  },
});

function addPanel(node) {
  node.properties[PROPERTY] ??= newId();
  const view = new RunView();
  view.onContinue = () => app.queuePrompt(0, 1);
  view.box.dataset.testid = "run-panel";
  showIn(node, "run_panel", view.box, HEIGHT);
  node.setSize([Math.max(node.size[0], WIDTH), node.computeSize()[1]]);
  panels.set(node, view);
  const { onRemoved, onConfigure, onAdded, onExecuted } = node;
  node.onRemoved = function (...given) {
    drop(node, view);
    return onRemoved?.apply(this, given);
  };
  node.onConfigure = function (...given) {
    const result = onConfigure?.apply(this, given);
    ownId(node);
    return result;
  };
  node.onExecuted = function (output, ...given) {
    // Also where the host answers from its cache: then Run trained nothing, and this says why.
    if (view.run?.state === "stopped" && output?.text) tell("info", [output.text].flat().join("\n"));
    return onExecuted?.call(this, output, ...given);
  };
  node.onAdded = function (...given) {
    const result = onAdded?.apply(this, given);
    panels.set(node, view); // cut and put back
    ownId(node);
    ask();
    return result;
  };
}

function drop(node, view) {
  view.dispose();
  panels.delete(node);
}

/** A copy of another node in the graph is a panel of its own; what is in no graph yet keeps its name. */
function ownId(node) {
  const taken = node.graph && [...panels.keys()].some((other) => other !== node && isLive(other) && idOf(other) === idOf(node));
  if (!idOf(node) || taken) node.properties[PROPERTY] = newId();
}

/** Whether a node is in the graph that is open, or in one of its subgraphs; older ones are never told to go. */
function isLive(node) {
  const root = app.rootGraph ?? app.graph;
  const graphs = [root, ...(root.subgraphs?.values() ?? [])];
  return graphs.includes(node.graph) && node.graph.nodes.includes(node);
}

function idOf(node) {
  return node.properties[PROPERTY];
}

/** Not crypto.randomUUID, which pages without https lack. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function show({ run, panel }) {
  for (const [node, view] of panels) if (panel && idOf(node) === panel) view.show(store.run(run));
}

/** Of a run that does not train its panel may show another by now. */
function hear(detail) {
  if (detail.run && detail.state === "training") show(detail);
  ask();
}

/** Ask the server how it stands with each panel, and again as long as something passes by that it sends no message of. */
const ask = soon(async () => {
  const shown = [...panels].filter(([node]) => isLive(node));
  if (!shown.length) return;
  const asked = performance.now();
  let standings;
  try {
    standings = await store.panels(shown.map(([node]) => idOf(node)));
  } catch {
    return; // the server is away; it is asked again when it is back
  }
  for (const [node, view] of shown) {
    const standing = standings[idOf(node)];
    if (!standing) continue;
    if (standing.run) {
      view.show(store.run(standing.run));
      store.run(standing.run).stands(standing, asked);
    } else view.tell(standing, asked);
  }
  clearTimeout(again);
  if (Object.values(standings).some(({ passing }) => passing)) again = setTimeout(ask, PASSING_EVERY);
});
let again = null;

/** Calls that come while one waits or is under way become one more afterwards. */
function soon(call) {
  let waiting = false;
  let last = Promise.resolve();
  const next = async () => {
    await new Promise((done) => setTimeout(done, TOGETHER));
    waiting = false;
    return call();
  };
  return () => {
    if (waiting) return;
    waiting = true;
    last = last.then(next, next);
  };
}
