// The pack's routes on the host's server.

import { api } from "../../../scripts/api.js";

export { api };

/** JSON from a route of the pack, e.g. `get("/seppo/runs")`; throws an Error with the server's own words. */
export async function get(route) {
  return answered(await api.fetchApi(route, { cache: "no-store" }));
}

/** Bytes that browsers send on when the page is closed meanwhile. */
const OUTLIVES_PAGE = 60000;

/** Send JSON to a route of the pack, even if the page is closed meanwhile; its answer, or null if that is empty. */
export async function post(route, data = {}) {
  const body = JSON.stringify(data);
  const headers = { "Content-Type": "application/json" };
  const keepalive = body.length * 3 < OUTLIVES_PAGE;
  return answered(await api.fetchApi(route, { method: "POST", headers, body, keepalive }));
}

/** The address of a route, for images. */
export function address(route) {
  return api.apiURL(route);
}

async function answered(response) {
  const text = await response.text();
  if (response.ok) return text ? JSON.parse(text) : null;
  let reason = text;
  try {
    reason = JSON.parse(text).error;
  } catch {
    // Not the pack's own answer: shown as it is.
  }
  throw new Error(reason || `the server answered with status ${response.status}`);
}
