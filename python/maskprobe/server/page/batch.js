// Tokens come faster than a page can be laid out: they are drawn together, a few times per second.

const DRAW_MS = 80;

export class Batch {
  /** `draw` gets the tokens since its last call. */
  constructor(draw) {
    this.draw = draw;
    this.tokens = [];
    this.timer = 0;
  }

  add(tokens) {
    this.tokens.push(...tokens);
    this.timer ||= setTimeout(() => this.flush(), DRAW_MS);
  }

  flush() {
    clearTimeout(this.timer);
    this.timer = 0;
    const tokens = this.tokens;
    this.tokens = [];
    this.draw(tokens);
  }
}
