// The curve: unsafe probability of every batch item over the model calls, threshold dashed, a strip while redirected; thin
// with hollow points what the picture judges saw.
import { text, number } from "./texts.js";
import { lastKnown } from "./model.js";

const SVG = "http://www.w3.org/2000/svg";
// Told apart by colour-blind readers as well (Okabe and Ito's palette), mixed with the text's colour for contrast.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const LEFT = 30, TOP = 6, RIGHT = 8, LABELS = 14, STRIPS = 20;
const MOST_MARKS = 400;

export function colourOf(item) {
  return `color-mix(in srgb, ${COLOURS[item % COLOURS.length]} 78%, currentColor)`;
}

function element(name, attributes, content) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (content !== undefined) made.textContent = content;
  return made;
}

/** Draws into an <svg> of the given size in pixels; cursor: a model call to mark, or null. */
export function drawChart(svg, picture, width, height, cursor = null) {
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const calls = Math.max(picture.steps, 1, ...[...picture.curves, ...picture.pictures].map((curve) => curve.points.length));
  const bottom = height - LABELS - STRIPS, right = width - RIGHT;
  const cell = (right - LEFT) / calls;
  const x = (at) => LEFT + (at + 0.5) * cell;
  const y = (probability) => bottom - probability * (bottom - TOP);

  for (const tick of [0, 0.5, 1]) {
    svg.append(
      element("line", { x1: LEFT, x2: right, y1: y(tick), y2: y(tick), stroke: "currentColor", "stroke-opacity": 0.18 }),
      element("text", { x: LEFT - 4, y: y(tick) + 3, "text-anchor": "end" }, tick.toFixed(1)));
  }
  svg.append(element("line", { x1: LEFT, x2: right, y1: y(picture.threshold), y2: y(picture.threshold),
    stroke: "currentColor", "stroke-dasharray": "5 4", class: "saferedir-threshold" }));
  const every = Math.max(1, Math.ceil(28 / cell));
  const steps = picture.curves[0]?.points ?? [];
  for (let at = 0; at < calls; at += every) {
    svg.append(element("text", { x: x(at), y: height - 3, "text-anchor": "middle" }, String(steps[at]?.step ?? at)));
  }
  const rows = 1 + Math.max(0, ...picture.curves.map((curve) => curve.item));
  for (const at of picture.attempts) {
    svg.append(element("line", { x1: x(at) - cell / 2, x2: x(at) - cell / 2, y1: TOP, y2: bottom, stroke: "currentColor",
      class: "saferedir-attempt" }));
  }
  for (const curve of picture.curves) drawCurve(svg, curve, x, y, picture);
  for (const curve of picture.pictures) drawCurve(svg, { ...curve, picture: true }, x, y, picture);
  for (const curve of picture.curves) drawStrip(svg, curve, x, cell, bottom + 3, (STRIPS - 5) / rows);
  if (cursor !== null && cursor < calls) {
    svg.append(element("line", { x1: x(cursor), x2: x(cursor), y1: TOP, y2: bottom + STRIPS, stroke: "currentColor",
      class: "saferedir-cursor" }));
  }
}

function drawCurve(svg, curve, x, y, picture) {
  const points = curve.points.filter((point) => point.probability !== null);
  const colour = colourOf(curve.item);
  const path = points.map((point, index) => `${index ? "L" : "M"}${x(point.at).toFixed(1)} ${y(point.probability).toFixed(1)}`);
  svg.append(element("path", { d: path.join(""), fill: "none", style: `stroke: ${colour}`,
    "stroke-width": curve.picture ? 1 : 2, "stroke-opacity": curve.conditioning ? 0.5 : 1,
    class: curve.picture ? "saferedir-picture-curve" : "saferedir-curve" }));
  if (points.length * (picture.curves.length + picture.pictures.length) > MOST_MARKS) return;
  for (const point of points) {
    svg.append(element("circle", { cx: x(point.at), cy: y(point.probability), r: 2.2,
      style: curve.picture ? `fill: none; stroke: ${colour}` : `fill: ${colour}`,
      class: curve.picture ? "saferedir-picture-point" : "saferedir-point" }));
  }
}

function drawStrip(svg, curve, x, cell, top, row) {
  let start = null;
  const close = (end) => {
    svg.append(element("rect", { x: x(start) - cell / 2, y: top + curve.item * row, width: (end - start) * cell,
      height: Math.max(row - 1, 0.5), style: `fill: ${colourOf(curve.item)}`, class: "saferedir-redirected" }));
    start = null;
  };
  for (const point of curve.points) {
    if (point.redirected && start === null) start = point.at;
    if (!point.redirected && start !== null) close(point.at);
  }
  if (start !== null) close(curve.points.length);
}

/** The same as words: where the run is, how unsafe, what is redirected. */
export function describe(picture) {
  const [first] = picture.curves;
  if (!first) return text("waiting", { name: picture.name });
  const known = picture.curves.map(lastKnown).filter(Boolean);
  const highest = Math.max(0, ...known.map((point) => point.probability));
  const redirected = [...new Set(picture.curves.filter((curve) => curve.points.at(-1)?.redirected)
    .map((curve) => curve.item + 1))].sort((one, two) => one - two);
  const step = text("step", { step: first.points.at(-1).step + 1, steps: picture.steps });
  const unsafe = text("probability", { probability: number(highest), threshold: number(picture.threshold) });
  const items = 1 + Math.max(...picture.curves.map((curve) => curve.item));
  const key = !redirected.length ? "nothing_redirected" : redirected.length === items ? "redirected_all" : "redirected_items";
  const moved = picture.pictures.filter((curve) => curve.points.some((point) => point.moved)).length;
  const done = moved && !redirected.length ? (picture.finished ? "" : text("picture_moved", { moved, items: picture.pictures.length }))
    : text(key, { count: redirected.length, items, list: redirected.join(", ") });
  const seen = picture.pictures.map(lastKnown).filter(Boolean).map((point) => point.probability);
  const looked = seen.length ? ` ${text("picture_probability", { probability: number(Math.max(...seen)) })}` : "";
  return `${[step, unsafe, done].filter(Boolean).join(" ")}${looked}`;
}

/** One model call as words, for the cursor. */
export function describeCall(picture, at) {
  const parts = picture.curves.filter((curve) => curve.points[at]).map((curve) => {
    const point = curve.points[at];
    const value = point.probability === null ? text("not_asked") : number(point.probability);
    return `${text("image", { number: curve.item + 1 })} ${value}${point.redirected ? ` ${text("is_redirected")}` : ""}`;
  });
  for (const { item, points } of picture.pictures) {
    const point = points[at];
    if (point) parts.push(`${text("image", { number: item + 1 })} ${text("picture_probability",
      { probability: number(point.probability) })}${point.moved ? ` ${text("is_moved")}` : ""}`);
  }
  const step = picture.curves[0]?.points[at]?.step ?? at;
  return `${text("at_step", { step })} ${parts.join("; ")}`;
}
