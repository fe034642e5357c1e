// The conversation on the page: messages, and answers as shaded tokens. Everything is put in as text, never as HTML.

import { OWN, sourceOf } from "./sources.js";

const NEAR_END = 80; // pixels: who has scrolled further up than this is not pulled down

export class Conversation {
  constructor(log) {
    this.log = log;
  }

  clear() {
    this.log.replaceChildren();
  }

  user(text) {
    const view = message("user", "You");
    view.querySelector(".text").textContent = text;
    this.append(view);
    return view;
  }

  /** An answer that is still empty. */
  answer(model) {
    const view = new AnswerView(model, (change) => this.follow(change));
    this.append(view.element);
    return view;
  }

  error(line) {
    const view = document.createElement("p");
    view.className = "error";
    view.setAttribute("role", "alert");
    view.textContent = line;
    this.append(view);
  }

  append(element) {
    this.log.append(element);
    this.log.scrollTop = this.log.scrollHeight;
  }

  /** Makes a change, and stays at the end where the reader is at the end. */
  follow(change) {
    const { log } = this;
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END;
    change();
    if (follows) log.scrollTop = log.scrollHeight;
  }
}

function message(role, name) {
  const view = document.createElement("article");
  view.className = role;
  const title = document.createElement("h3");
  title.textContent = name;
  const text = document.createElement("div");
  text.className = "text";
  view.append(title, text);
  return view;
}

export class AnswerView {
  constructor(model, follow) {
    this.element = message("assistant", model);
    this.element.classList.add("running");
    this.text = this.element.querySelector(".text");
    this.tokens = []; // in the order of their spans
    this.follow = follow;
    this.line = ""; // that is not complete yet
    this.inCode = false; // between two lines that begin with ```
  }

  /** Adds tokens as PassLog has placed them. */
  add(tokens) {
    if (!tokens.length) return;
    const spans = tokens.map((token) => {
      this.tokens.push(token);
      return this.span(token);
    });
    this.follow(() => this.text.append(...spans));
  }

  span(token) {
    const view = document.createElement("span");
    view.className = "token";
    view.dataset.source = token.source;
    view.dataset.index = this.tokens.length - 1;
    view.textContent = token.text;
    if (token.source !== OWN) view.classList.add("drafted", sourceOf(token.source).style);
    if (!token.text) view.classList.add("bare");
    if (token.text.startsWith("\n")) view.classList.add("line");
    if (this.isCode(token.text)) view.classList.add("code");
    return view;
  }

  /** Whether a token is part of a code fence, its marks too. */
  isCode(text) {
    const before = this.inCode;
    for (const piece of text.split(/(\n)/)) {
      if (piece === "\n") {
        if (this.line.startsWith("```")) this.inCode = !this.inCode;
        this.line = "";
      } else {
        this.line += piece;
      }
    }
    return before || this.inCode || this.line.startsWith("```");
  }

  end(line) {
    this.element.classList.remove("running");
    if (this.tokens.length) {
      this.text.tabIndex = 0;
      this.text.setAttribute("role", "group");
      this.text.setAttribute("aria-label", "Answer. The arrow keys go through its tokens.");
    }
    const foot = document.createElement("p");
    foot.className = "foot";
    foot.textContent = line;
    this.follow(() => this.element.append(foot));
  }
}
