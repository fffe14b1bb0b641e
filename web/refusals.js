// What a node of the pack says when it refuses or fails, shown at once: the host's own words come before it otherwise.

import { api } from "./shared/api.js";

const { app } = window.comfyAPI.app;
const OURS = "SePPO";

let shown = [];
let last = null;

/** Stays until it is closed, or until there is something to say of another graph. */
function say(summary, detail, graph) {
  const { toast } = app.extensionManager;
  if (graph !== last) {
    shown.forEach((message) => toast.remove(message));
    shown = [];
  }
  last = graph;
  shown.push({ severity: "error", summary, detail });
  toast.add(shown.at(-1));
}

app.registerExtension({
  name: "seppo.refusals",
  setup() {
    api.addEventListener("seppo.refused", ({ detail }) => say(detail.node, detail.said, detail.request));
    api.addEventListener("execution_error", ({ detail }) => {
      const kind = detail?.node_type ?? "";
      if (!kind.startsWith(OURS)) return;
      say(window.LiteGraph.registered_node_types[kind]?.title ?? kind, detail.exception_message.trim(), detail.prompt_id);
    });
  },
});
