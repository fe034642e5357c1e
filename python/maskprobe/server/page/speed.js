// What was measured of the last request: as it was asked, and plainly. A ratio is shown only where both ran to their end.

import { fixed } from "./text.js";

const LABELS = { auto: "as the server", on: "on", off: "off (plain)" };

/** What a finished PassLog comes to. `draft` is "auto", "on" or "off"; `others`: requests that ran beside it. */
export function measured(log, { draft, complete, others }) {
  return {
    draft,
    complete,
    others,
    n: log.stats.n_gen,
    rate: log.rate,
    perPass: log.tokensPerPass,
    drafted: log.stats.drafted,
    ids: log.tokens.map((token) => token.id),
  };
}

export function drawSpeed(body, result, asked, plain) {
  const runs = [asked, plain].filter(Boolean);
  body.replaceChildren(...runs.map(row));
  result.textContent = asked && plain ? compared(asked, plain) : "";
}

function row(run) {
  const view = document.createElement("tr");
  const title = document.createElement("th");
  title.scope = "row";
  title.textContent = LABELS[run.draft] + (run.complete ? "" : ", stopped");
  view.append(title);
  for (const text of [String(run.n), fixed(run.rate, 1), fixed(run.perPass, 2)]) {
    const cell = document.createElement("td");
    cell.textContent = text;
    view.append(cell);
  }
  return view;
}

function compared(asked, plain) {
  const lines = [];
  if (!asked.complete || !plain.complete) lines.push("One of both was stopped: they are not compared.");
  else if (!asked.drafted) lines.push("Nothing was drafted: there is nothing to compare.");
  else if (!asked.rate || !plain.rate) lines.push("The answer is too short to be timed.");
  else lines.push(`Drafting: ${fixed(asked.rate / plain.rate, 2)} times the speed of plain decoding.`);
  if (asked.complete && plain.complete) lines.push(difference(asked.ids, plain.ids));
  if (asked.others || plain.others) lines.push("Other requests ran at the same time: the figures say little.");
  return lines.join(" ");
}

function difference(a, b) {
  const most = Math.max(a.length, b.length);
  for (let i = 0; i < most; i++) if (a[i] !== b[i]) return `The texts differ from token ${i + 1} on.`;
  return "The texts are equal.";
}

/** T(n), as the engine has learned it: [{rows, us}]. */
export function drawTimes(body, note, times) {
  const known = times.filter((time) => time.us);
  const one = known.find((time) => time.rows === 1)?.us;
  body.replaceChildren(
    ...known.map(({ rows, us }) => {
      const view = document.createElement("tr");
      const title = document.createElement("th");
      title.scope = "row";
      title.textContent = String(rows);
      view.append(title);
      for (const text of [fixed(us / 1000, 2), fixed(us / 1000 / rows, 2), one ? fixed(us / one, 2) : "–"]) {
        const cell = document.createElement("td");
        cell.textContent = text;
        view.append(cell);
      }
      return view;
    }),
  );
  note.textContent = known.length
    ? "As the engine has learned it here; it drafts as many rows as pay."
    : "The engine learns it with its first passes.";
}
