// Fields that narrow down which pictures are shown.

import { element } from "../shared/dom.js";

const DAY = 24 * 60 * 60 * 1000;

export class Filters {
  constructor(changed) {
    const field = (label, name, tag, properties = {}) => {
      const input = element(tag, { className: "seppo-field", data: { testid: `seppo-${name}` }, ...properties });
      input.addEventListener(tag === "select" ? "change" : "input", changed);
      this[name] = input;
      return element("label", {}, `${label} `, input);
    };
    this.element = element(
      "div",
      { className: "seppo-row" },
      field("Folder", "folder", "select"),
      field("Words", "words", "input", { type: "search", placeholder: "in prompt or file name" }),
      field("Model", "model", "select"),
      field("From", "from", "input", { type: "date" }),
      field("To", "to", "input", { type: "date" }),
      field("Marked only", "only", "input", { type: "checkbox" })
    );
  }

  /** Offer the folders and models that there are. */
  offer(pictures, about) {
    const folders = [...new Set(pictures.map((picture) => picture.folder))].filter(Boolean);
    const models = [...about.values()].map((row) => row.model).filter(Boolean);
    offerIn(this.folder, "all", folders);
    offerIn(this.model, "any", [...new Set(models)]);
  }

  /** The pictures that pass, in their order. */
  passed(pictures, about, marked) {
    const words = this.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const from = dayOf(this.from.value, -Infinity);
    const until = dayOf(this.to.value, Infinity) + DAY;
    const folder = this.folder.value;
    return pictures.filter((picture) => {
      const row = about.get(picture.address);
      const text = words.length ? `${picture.name} ${row?.prompt ?? ""}`.toLowerCase() : "";
      return (
        (!this.only.checked || marked.has(picture.address)) &&
        (!folder || picture.folder === folder || picture.folder.startsWith(`${folder}/`)) &&
        (!this.model.value || row?.model === this.model.value) &&
        picture.time >= from &&
        picture.time < until &&
        words.every((word) => text.includes(word))
      );
    });
  }
}

function dayOf(text, otherwise) {
  return text ? new Date(`${text}T00:00`).getTime() : otherwise;
}

function offerIn(select, all, values) {
  const wanted = ["", ...values.sort()];
  if (wanted.join("\n") === [...select.options].map((option) => option.value).join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...wanted.map((value) => element("option", { value }, value || all)));
  select.value = wanted.includes(chosen) ? chosen : "";
}
