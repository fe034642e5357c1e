// Rows and accepted tokens of the passes of one answer: bars and a line, and the same in words.

import { fixed, plural } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";
const MOST_BARS = 120; // more passes share one

/** `passes`: [{accepted: [tokens], rows}], as PassLog has them. */
export function drawChart(container, caption, passes) {
  if (!passes.length) {
    container.replaceChildren();
    caption.textContent = "There was no pass yet.";
    return;
  }
  const perBar = Math.ceil(passes.length / MOST_BARS);
  const bars = [];
  for (let i = 0; i < passes.length; i += perBar) {
    const some = passes.slice(i, i + perBar);
    bars.push({ rows: mean(some, (pass) => pass.rows), accepted: mean(some, (pass) => pass.accepted.length) });
  }
  const top = Math.max(1, ...bars.map((bar) => Math.max(bar.rows, bar.accepted)));
  const told =
    `${plural(passes.length, "pass")}: ${fixed(mean(passes, (pass) => pass.rows), 1)} rows and ` +
    `${fixed(mean(passes, (pass) => pass.accepted.length), 2)} accepted tokens per pass in the mean, ` +
    `${Math.max(...passes.map((pass) => pass.accepted.length))} accepted at most.`;
  caption.textContent = perBar > 1 ? `${told} One bar is ${perBar} passes.` : told;
  container.replaceChildren(scale(top), picture(bars, top, told), keys(passes.length));
}

function mean(list, value) {
  return list.reduce((sum, one) => sum + value(one), 0) / list.length;
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function picture(bars, top, told) {
  const width = Math.max(bars.length, 8); // a few passes do not fill the picture
  const svg = shape("svg", { viewBox: `0 0 ${width} 100`, preserveAspectRatio: "none", role: "img", "aria-label": told });
  const height = (value) => (96 * value) / top;
  bars.forEach((bar, i) => {
    const h = height(bar.accepted);
    svg.append(shape("rect", { x: i + 0.12, y: 100 - h, width: 0.76, height: h, class: "bar" }));
  });
  const points = bars.flatMap((bar, i) => [`${i},${100 - height(bar.rows)}`, `${i + 1},${100 - height(bar.rows)}`]);
  svg.append(shape("polyline", { points: points.join(" "), class: "rows-line" }));
  return svg;
}

function scale(top) {
  const view = document.createElement("div");
  view.className = "scale";
  view.ariaHidden = "true";
  view.append(word(fixed(top, Number.isInteger(top) ? 0 : 1)), word("0"));
  return view;
}

function keys(n) {
  const view = document.createElement("div");
  view.className = "keys";
  view.ariaHidden = "true";
  view.append(word("rows", "key-line"), word("accepted tokens", "key-bar"), word(`passes 1 to ${n}`));
  return view;
}

function word(text, keyClass) {
  const view = document.createElement("span");
  if (keyClass) {
    const key = document.createElement("span");
    key.className = keyClass;
    view.append(key);
  }
  view.append(text);
  return view;
}
