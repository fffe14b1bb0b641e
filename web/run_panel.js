// The run panel on SePPO Train, and the list of runs in a sidebar tab.

import { element, remount, showIn } from "./shared/dom.js";
import { RunList } from "./runs/list.js";
import { store } from "./runs/store.js";
import { RunView } from "./runs/view.js";

const { app } = window.comfyAPI.app;
const CLASS = "SePPOTrain";
const PROPERTY = "seppo_panel";
const HEIGHT = 340;
const WIDTH = 440;
const panels = new Map(); // node -> RunView

app.registerExtension({
  name: "seppo.runs",
  setup() {
    store.listen();
    store.addEventListener("list", ({ detail }) => (detail.run ? show(detail) : showKnown()));
    store.addEventListener("step", ({ detail }) => show(detail));
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
    showKnown();
  },
});

function addPanel(node) {
  node.properties[PROPERTY] ??= newId();
  const view = new RunView();
  view.box.dataset.testid = "run-panel";
  showIn(node, "run_panel", view.box, HEIGHT);
  node.setSize([Math.max(node.size[0], WIDTH), node.computeSize()[1]]);
  panels.set(node, view);
  const { onRemoved, onConfigure, onAdded } = node;
  node.onRemoved = function (...given) {
    drop(node, view);
    return onRemoved?.apply(this, given);
  };
  node.onConfigure = function (...given) {
    const result = onConfigure?.apply(this, given);
    ownId(node);
    return result;
  };
  node.onAdded = function (...given) {
    const result = onAdded?.apply(this, given);
    panels.set(node, view); // cut and put back
    ownId(node);
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

/** After a reload: each panel shows the newest run that it started. */
async function showKnown() {
  if (!panels.size) return;
  let runs = [];
  try {
    runs = await store.list();
  } catch {
    return; // the server is away; it is asked again when it is back
  }
  for (const [node, view] of panels) {
    const run = runs.find((one) => one.panel && one.panel === idOf(node));
    if (run) view.show(store.run(run.name));
  }
}
