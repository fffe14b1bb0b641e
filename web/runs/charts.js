// Curves over steps, and the map of winners and noise levels.

import uPlot from "../vendor/uPlot.mjs?v=1.6.32";

import { element, sheet } from "../shared/dom.js";

const HEIGHT = 110;
const COLOURS = ["#3d8bfd", "#d2691e", "#2e9e6b", "#b565d9", "#c9a227", "#d9576c", "#4bb3c4", "#8a8f98"];
const GREY = COLOURS.at(-1);
const MOST_POINTS = 2000;

/** The charts' styles; uPlot's own names hold inside our charts alone. */
export const CHARTS = `:where(.seppo-chart) { ${await sheet("../vendor/uPlot.css?v=1.6.32", import.meta.url)} }`;

/** A chart of several curves over the step; `labels` name them. Draw with `set([steps, ...values])`; a curve without a value stays away.
 * With `band` the last two are the upper and the lower edge of a grey band. */
export class Chart {
  constructor(title, labels, band = false) {
    this.band = band;
    this.box = element("div", { className: "seppo-chart", data: { testid: `chart-${title.replaceAll(" ", "-")}` } });
    this.labels = labels;
    this.title = title;
    this.plot = null;
    this.watch = new ResizeObserver(() => this.#fit());
    this.box.addEventListener("transitionrun", () => this.plot?.redraw()); // the theme is another one
  }

  set([steps, ...values]) {
    const shown = values.flatMap((column, i) => (column.some((value) => value !== null) ? [i] : []));
    const data = thinned([steps, ...shown.map((i) => values[i])]);
    this.box.dataset.points = steps.length;
    if (this.plot && String(shown) === String(this.shown)) return this.plot.setData(data);
    this.dispose();
    this.shown = shown;
    this.plot = new uPlot(this.#options(), data, this.box);
    this.watch.observe(this.box);
  }

  /** Let go of everything but the empty box; `set` draws anew. */
  dispose() {
    this.watch.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }

  #options() {
    const colour = (name, other) => () => getComputedStyle(this.box).getPropertyValue(name).trim() || other;
    const ink = colour("--input-text", "#ddd");
    const line = colour("--border-color", "#4e4e4e");
    const axis = { stroke: ink, grid: { stroke: line, width: 0.5 }, ticks: { stroke: line, size: 4 }, font: "10px system-ui" };
    const edge = this.band ? this.labels.length - 2 : this.labels.length;
    const banded = this.shown.length > edge;
    const pen = (i) => (i < edge ? { stroke: COLOURS[i % COLOURS.length], width: 1.2 } : { stroke: GREY, width: 0.5 });
    this.box.classList.toggle("seppo-banded", banded);
    return {
      title: this.title,
      width: this.#width(),
      height: HEIGHT,
      scales: { x: { time: false } },
      legend: { show: edge > 1 || banded, live: false },
      bands: banded ? [{ series: [this.shown.length - 1, this.shown.length], fill: `${GREY}40` }] : [],
      cursor: { y: false, move: inCanvas },
      axes: [{ ...axis, size: 20 }, { ...axis, size: 52, values: (_, ticks) => ticks.map(short) }],
      series: [
        { label: "step" },
        ...this.shown.map((i) => ({ label: this.labels[i], ...pen(i), spanGaps: true, points: { show: false } })),
      ],
    };
  }

  #width() {
    return Math.max(160, Math.floor(this.box.clientWidth) || 300);
  }

  #fit() {
    if (this.plot && this.plot.width !== this.#width()) this.plot.setSize({ width: this.#width(), height: HEIGHT });
  }
}

/** The pointer's place where the host draws the node smaller or larger than it is. */
function inCanvas(plot, left, top) {
  const scale = plot.over.getBoundingClientRect().width / plot.over.offsetWidth || 1;
  return [left / scale, top / scale];
}

/** At most MOST_POINTS columns, evenly; the last one stays. */
function thinned(columns) {
  const count = columns[0].length;
  if (count <= MOST_POINTS) return columns;
  const every = Math.ceil(count / MOST_POINTS);
  const wanted = (_, i) => (count - 1 - i) % every === 0;
  return columns.map((column) => column.filter(wanted));
}

function short(value) {
  if (value === null) return "";
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 10000) ? value.toExponential(0) : String(+value.toPrecision(3));
}

/** Draw cells {"winner,level": [looked at, policy ahead]} on a small canvas; returns how many winners it shows. */
export function drawMap(canvas, cells, levels) {
  const places = Object.entries(cells).map(([place, counts]) => [...place.split(",").map(Number), ...counts]);
  const winners = [...new Set(places.map(([winner]) => winner))].sort((a, b) => a - b);
  canvas.width = levels;
  canvas.height = Math.max(1, winners.length);
  const pen = canvas.getContext("2d");
  for (const [winner, level, looked, ahead] of places) {
    pen.fillStyle = shade(ahead / looked);
    pen.fillRect(level, winners.indexOf(winner), 1, 1);
  }
  return winners;
}

/** From behind (orange) over even (grey) to ahead (blue). */
function shade(share) {
  const [from, to, part] = share < 0.5 ? [[210, 105, 30], [150, 150, 150], share * 2] : [[150, 150, 150], [61, 139, 253], share * 2 - 1];
  return `rgb(${from.map((value, i) => Math.round(value + (to[i] - value) * part)).join(",")})`;
}
