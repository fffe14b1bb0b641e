// One picture on the page, with words in its place where it cannot be shown.

import { get } from "../shared/api.js";
import { element } from "../shared/dom.js";
import { load } from "./loads.js";
import { smallCopy } from "./store.js";

/** An element that shows a picture's small copy, or why there is none. */
export function pictureView(picture, size = 256) {
  const route = smallCopy(picture, size);
  const view = element("span", { className: "seppo-picture" });
  const image = element("img", { alt: picture.name, draggable: false, decoding: "async" });
  image.addEventListener("error", async () => {
    const reason = await get(route).then(() => "cannot be shown", (error) => error.message);
    image.replaceWith(element("span", { className: "seppo-broken" }, reason));
  });
  view.append(image);
  load(image, route);
  return view;
}
