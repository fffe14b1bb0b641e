// The section SePPO of the host's settings: what new nodes begin with, and where and how runs are kept.

import { app } from "../../scripts/app.js";

const CATEGORY = "SePPO";
const NEW_NODES = "Defaults of new nodes";
const RUNS = "Runs";

// Ids that begin with SePPO.Runs are read on the server as well, in nodes/user_settings.py.
const DEFAULTS = [
  { id: "SePPO.Train.preset", node: "SePPOTrain", widget: "preset", group: NEW_NODES, name: "Preset" },
  { id: "SePPO.Train.steps", node: "SePPOTrain", widget: "steps", group: NEW_NODES, name: "Steps" },
  { id: "SePPO.Train.learning_rate", node: "SePPOTrain", widget: "learning_rate", group: NEW_NODES, name: "Learning rate" },
  { id: "SePPO.Train.rank", node: "SePPOTrain", widget: "rank", group: NEW_NODES, name: "Rank" },
  {
    id: "SePPO.Runs.preview_every",
    node: "SePPOOptimizerSettings",
    widget: "preview_every",
    group: RUNS,
    name: "Preview interval",
    tooltip:
      "Optimizer steps between preview pictures; 0 shows none. Holds where no SePPO Optimizer Settings are connected, " +
      "and is what new ones of these begin with.",
  },
];

const RUN_FOLDER = {
  id: "SePPO.Runs.folder",
  category: [CATEGORY, RUNS, "Run folder"],
  name: "Run folder",
  tooltip:
    "Where new runs are kept: a folder in ComfyUI's output. Runs that are in other folders there stay where they are; " +
    "they are still found by name, and go on there. Servers with several users keep to the folder seppo.",
  type: "text",
  defaultValue: "seppo",
};

/** The widget's own definition: [kind, settings]. */
function defined(nodeData, widget) {
  const { required = {}, optional = {} } = nodeData.input;
  return { ...required, ...optional }[widget];
}

/** How the host's settings show a widget of that definition. */
function shownAs([kind, given]) {
  const options = Array.isArray(kind) ? kind : given.options;
  if (options) return { type: "combo", options, defaultValue: given.default };
  const { min, max, step } = given;
  const digits = kind === "FLOAT" ? 6 : 0;
  return { type: "number", attrs: { min, max, step, maxFractionDigits: digits }, defaultValue: given.default };
}

const offered = new Set();

function offer(setting) {
  if (offered.has(setting.id)) return; // definitions come again when the user refreshes them
  offered.add(setting.id);
  app.ui.settings.addSetting(setting);
}

app.registerExtension({
  name: "seppo.settings",
  settings: [RUN_FOLDER],

  beforeRegisterNodeDef(nodeType, nodeData) {
    for (const [place, { id, node, widget, group, name, tooltip }] of DEFAULTS.entries()) {
      if (node !== nodeData.name) continue;
      const definition = defined(nodeData, widget);
      offer({
        id,
        name,
        category: [CATEGORY, group, name],
        sortOrder: DEFAULTS.length - place,
        tooltip: tooltip ?? definition[1].tooltip,
        ...shownAs(definition),
      });
    }
  },

  /** A node that is loaded, pasted or restored takes its own values after this. */
  nodeCreated(node) {
    for (const { id, node: kind, widget: name } of DEFAULTS) {
      if (kind !== node.comfyClass) continue;
      const widget = node.widgets?.find((each) => each.name === name);
      const value = app.extensionManager.setting.get(id);
      if (widget && value !== undefined && value !== null) widget.value = value;
    }
  },
});
