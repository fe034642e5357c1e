// The newest pass as nested lists: a path without branches is one line, each branch a list of its own.
//
// A tree is a list of nodes, parents before their children:
//   {parent: index or -1, text, source, accepted}     the root is node 0; source "model" is the token after the path

import { OWN, sourceOf } from "./sources.js";
import { shownText } from "./text.js";

/** The nodes of what is known without the server's tree: the root, what was accepted, the model's own token. */
export function acceptedPath(log, number) {
  const pass = log.at(number);
  const root = log.tokens.filter((token) => token.pass < number).at(-1);
  const path = [...pass.accepted, ...(pass.own ? [pass.own] : [])];
  const nodes = [{ parent: -1, text: root?.text ?? "", source: root?.source ?? OWN, accepted: true }];
  for (const token of path) nodes.push({ parent: nodes.length - 1, text: token.text, source: token.source, accepted: true });
  return nodes;
}

export function drawTree(container, nodes) {
  const children = nodes.map(() => []);
  nodes.forEach((node, i) => node.parent >= 0 && children[node.parent].push(i));
  for (const list of children) list.sort((a, b) => nodes[b].accepted - nodes[a].accepted || a - b);
  container.replaceChildren(nodes.length ? branches([0], nodes, children) : "");
}

function branches(starts, nodes, children) {
  const list = document.createElement("ul");
  for (const start of starts) {
    const item = document.createElement("li");
    let i = start;
    item.append(nodeView(nodes[i], i === 0));
    while (children[i].length === 1) {
      i = children[i][0];
      const arrow = document.createElement("span");
      arrow.className = "arrow";
      arrow.textContent = "→";
      item.append(arrow, nodeView(nodes[i], false));
    }
    if (children[i].length) item.append(branches(children[i], nodes, children));
    list.append(item);
  }
  return list;
}

function nodeView(node, isRoot) {
  const view = document.createElement("span");
  const isOwn = !isRoot && node.source === OWN;
  view.className = "node";
  if (!isRoot && !isOwn) view.classList.add("drafted", sourceOf(node.source).style, node.accepted ? "accepted" : "rejected");
  view.textContent = shownText(node.text);
  const what = isRoot ? "root" : isOwn ? "the model's own" : `${sourceOf(node.source).label}, ${node.accepted ? "accepted" : "not accepted"}`;
  view.title = what;
  const told = document.createElement("span");
  told.className = "unseen";
  told.textContent = ` (${what})`;
  view.append(told);
  return view;
}
