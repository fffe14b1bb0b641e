// What a node of the pack says when it refuses or fails, shown at once: the host's own words come before it otherwise.

import { api } from "./shared/api.js";

const { app } = window.comfyAPI.app;
const OURS = "SePPO";

/** Stays until it is closed; the same words are shown once. */
function say(summary, detail) {
  const toast = app.extensionManager.toast;
  if (shown) toast.remove(shown);
  shown = { severity: "error", summary, detail };
  toast.add(shown);
}
let shown = null;

app.registerExtension({
  name: "seppo.refusals",
  setup() {
    api.addEventListener("seppo.refused", ({ detail }) => say(detail.node, detail.said));
    api.addEventListener("execution_error", ({ detail }) => {
      const kind = detail?.node_type ?? "";
      if (!kind.startsWith(OURS)) return;
      const title = window.LiteGraph.registered_node_types[kind]?.title ?? kind;
      say(title, detail.exception_message.trim());
    });
  },
});
