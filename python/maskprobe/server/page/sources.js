// What can have guessed a token: names of the core (mp_source_name), and what a reader is told.

export const OWN = "model";

// In the order of the legend. `style` is the class in sources.css.
export const SOURCES = {
  token: { style: "s-token", label: "after 1 token", help: "the model had given it as likely after the token before" },
  pair: { style: "s-pair", label: "after 2 tokens", help: "the model had given it as likely after the two tokens before" },
  triple: { style: "s-triple", label: "after 3 tokens", help: "the model had given it as likely after the three tokens before" },
  "n-gram": { style: "s-ngram", label: "n-gram of this text", help: "it followed the same tokens earlier in this text" },
  mask: { style: "s-mask", label: "mask", help: "a mask row of the last pass predicted it" },
  "row before": { style: "s-last", label: "row before", help: "it was another likely token of the row before" },
  "rejected rows": { style: "s-sibling", label: "rejected rows", help: "rows of rejected candidates predicted it" },
  "earlier texts": { style: "s-earlier", label: "earlier texts", help: "it followed the same tokens in an earlier text" },
  heads: { style: "s-head", label: "trained heads", help: "heads that were trained for the model predicted it" },
  proposer: { style: "s-proposer", label: "proposer", help: "a source that was plugged in proposed it" },
  constraint: { style: "s-constraint", label: "constraint", help: "a schema or grammar left no other choice" },
};

const UNKNOWN = { style: "s-other", help: "a source that this page does not know" };

export function sourceOf(name) {
  return SOURCES[name] ?? { ...UNKNOWN, label: name };
}

/** Tokens per source, of a list of tokens; a source that gave none has no entry. */
export function countSources(tokens) {
  const counts = new Map();
  for (const token of tokens) counts.set(token.source, (counts.get(token.source) ?? 0) + 1);
  return counts;
}

/** Writes the legend: each source that gave tokens, with its count and share. */
export function drawLegend(body, tokens) {
  const counts = countSources(tokens);
  const known = Object.keys(SOURCES);
  const names = [OWN, ...known, ...[...counts.keys()].filter((name) => name !== OWN && !known.includes(name))];
  const rows = names.filter((name) => name === OWN || counts.has(name)).map((name) => legendRow(name, counts, tokens.length));
  body.replaceChildren(...rows);
}

function legendRow(name, counts, total) {
  const row = document.createElement("tr");
  row.dataset.source = name;
  const title = document.createElement("th");
  title.scope = "row";
  const swatch = document.createElement("span");
  const source = name === OWN ? { label: "the model's own", help: "no candidate was accepted here" } : sourceOf(name);
  swatch.textContent = source.label;
  if (source.style) swatch.className = `token drafted ${source.style}`;
  const help = document.createElement("small");
  help.textContent = source.help;
  title.append(swatch, " ", help);
  const count = document.createElement("td");
  const n = counts.get(name) ?? 0;
  count.textContent = String(n);
  const share = document.createElement("td");
  share.textContent = total ? `${Math.round((100 * n) / total)} %` : "";
  row.append(title, count, share);
  return row;
}
