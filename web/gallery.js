// Opens the gallery: from its node, from the menu, and as a command.

import { app } from "../../scripts/app.js";
import { Gallery } from "./gallery/dialog.js";

const NODE = "SePPOPickWinners";
const COMMAND = "SePPO.PickWinners";
let gallery = null;

/** Open the gallery, once at a time; for a node, with its set, which it is told when another one is taken. */
function open(node) {
  if (gallery) return;
  const widget = node?.widgets.find(({ name }) => name === "set_name");
  gallery = new Gallery({
    name: widget?.value,
    taken: (name) => widget && write(node, widget, name),
    closed: () => (gallery = null),
  });
  gallery.show();
}

function write(node, widget, value) {
  widget.value = value;
  widget.callback?.(value);
  node.setDirtyCanvas(true, true);
  const tracker = app.extensionManager.workflow?.activeWorkflow?.changeTracker;
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker); // renamed in 1.49
}

app.registerExtension({
  name: "seppo.gallery",
  commands: [{ id: COMMAND, label: "SePPO: Pick winners", icon: "pi pi-images", function: () => open() }],
  menuCommands: [{ path: ["SePPO"], commands: [COMMAND] }],
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const opener = node.addWidget("button", "Open the gallery", null, () => open(node), { serialize: false });
    opener.serialize = false;
  },
});
