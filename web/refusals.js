// What a node of the pack says when it refuses or fails, shown at once: the host's own words come before it otherwise.

import { api } from "./shared/api.js";

const { app } = window.comfyAPI.app;
const OURS = "SePPO";
const TOGETHER = 2000;
/** Milliseconds: what several nodes say of one graph comes within that time. */

let shown = [];
let last = 0;

/** Stays until it is closed, or until there is something else to say. */
function say(summary, detail) {
  const { toast } = app.extensionManager;
  if (Date.now() - last > TOGETHER) {
    shown.forEach((message) => toast.remove(message));
    shown = [];
  }
  last = Date.now();
  shown.push({ severity: "error", summary, detail });
  toast.add(shown.at(-1));
}

app.registerExtension({
  name: "seppo.refusals",
  setup() {
    api.addEventListener("seppo.refused", ({ detail }) => say(detail.node, detail.said));
    api.addEventListener("execution_error", ({ detail }) => {
      const kind = detail?.node_type ?? "";
      if (!kind.startsWith(OURS)) return;
      say(window.LiteGraph.registered_node_types[kind]?.title ?? kind, detail.exception_message.trim());
    });
  },
});
