// What is known of one token, beside it: under the pointer, or at the token that the arrow keys are at.

import { OWN, sourceOf } from "./sources.js";
import { fixed, shownText } from "./text.js";

const GAP = 6; // pixels

export class TokenDetail {
  /** `tokenOf` gives the token that a span shows. */
  constructor(box, log, tokenOf) {
    this.box = box;
    this.log = log;
    this.tokenOf = tokenOf;
    this.span = null; // whose box is shown
    log.addEventListener("pointerover", (event) => this.enter(event.target.closest(".token")));
    log.addEventListener("click", (event) => this.enter(event.target.closest(".token")));
    log.addEventListener("pointerout", (event) => this.leave(event.relatedTarget));
    box.addEventListener("pointerout", (event) => this.leave(event.relatedTarget));
    log.addEventListener("keydown", (event) => this.move(event));
    log.addEventListener("focusin", (event) => event.target.classList.contains("token") && this.show(event.target));
    log.addEventListener("focusout", () => this.hide());
    log.addEventListener("scroll", () => this.place());
    window.addEventListener("resize", () => this.place());
  }

  enter(span) {
    if (span) this.show(span);
  }

  leave(to) {
    if (!(to instanceof Node) || !this.box.contains(to)) this.hide();
  }

  move(event) {
    const text = event.target.closest(".text");
    if (!text?.hasAttribute("role") || event.ctrlKey || event.altKey || event.metaKey) return;
    const spans = text.children;
    const at = event.target === text ? -1 : [...spans].indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const span = spans[Math.min(Math.max(to, 0), spans.length - 1)];
    span.tabIndex = -1;
    span.setAttribute("role", "note");
    span.setAttribute("aria-describedby", this.box.id);
    this.show(span); // before the focus, so that the description is there when it is read
    span.focus();
  }

  show(span) {
    const token = this.tokenOf(span);
    if (!token) return;
    const list = document.createElement("dl");
    for (const [name, value, style] of facts(token)) {
      const title = document.createElement("dt");
      title.textContent = name;
      const text = document.createElement("dd");
      text.textContent = value;
      if (style) text.className = style;
      list.append(title, text);
    }
    this.box.replaceChildren(list);
    this.box.hidden = false;
    this.span = span;
    this.place();
  }

  /** Puts the box beside its token, and away where the token is scrolled out of the conversation. */
  place() {
    if (this.box.hidden) return;
    const rect = this.span.getClientRects()[0] ?? this.span.getBoundingClientRect();
    const log = this.log.getBoundingClientRect();
    if (!this.span.isConnected || rect.bottom < log.top || rect.top > log.bottom) {
      this.hide();
      return;
    }
    const { width, height } = this.box.getBoundingClientRect();
    const room = document.documentElement.clientWidth - width - GAP;
    const above = rect.top - GAP - height;
    const isBelow = above < 0 || rect.bottom + GAP + height < window.innerHeight; // never over the token itself
    this.box.style.left = `${window.scrollX + Math.max(GAP, Math.min(rect.left, room))}px`;
    this.box.style.top = `${window.scrollY + (isBelow ? rect.bottom + GAP : above)}px`;
  }

  hide() {
    this.box.hidden = true;
  }
}

function facts(token) {
  const isOwn = token.source === OWN;
  const percent = 100 * Math.exp(token.logprob);
  const rows = [
    ["token", shownText(token.text), "shown"],
    ["id", String(token.id)],
    ["log-probability", `${fixed(token.logprob, 3)} (${fixed(percent, percent < 1 ? 3 : 1)} %)`],
    ["pass", token.pass ? String(token.pass) : "the prompt's"],
    ["from", isOwn ? "the model's own" : `draft: ${sourceOf(token.source).label}`],
  ];
  if (!isOwn) rows.push(["why", sourceOf(token.source).help]);
  return rows;
}
