// Texts for readers: tokens whose characters cannot be seen, numbers, sentences for screen readers.

/** A token's text with its white space visible; a token without text is an end, or a part of a character. */
export function shownText(text) {
  if (text === "") return "∅";
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
}

export function fixed(value, digits) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value.toFixed(digits).replace(/^-(0(\.0*)?)$/, "$1"); // no -0.000
}

/** 1 token, 2 tokens; 1 pass, 2 passes. */
export function plural(n, word) {
  return `${n} ${word}${n === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;
}

/** Puts whole sentences into a live region, so that a screen reader does not spell out tokens. */
export class Speaker {
  constructor(region) {
    this.region = region;
    this.rest = "";
  }

  add(text) {
    this.rest += text;
    const end = this.rest.match(/^[\s\S]*(?:[.!?:;]["')\]]?\s|\n)/);
    if (!end) return;
    this.say(end[0]);
    this.rest = this.rest.slice(end[0].length);
  }

  /** What is left, and a last line. */
  finish(line) {
    this.say(this.rest);
    this.rest = "";
    this.say(line);
  }

  say(text) {
    if (!text.trim()) return;
    const line = document.createElement("p");
    line.textContent = text.trim();
    this.region.append(line);
    while (this.region.childElementCount > 20) this.region.firstElementChild.remove();
  }
}
