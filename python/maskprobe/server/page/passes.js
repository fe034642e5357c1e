// What became of each pass of one answer, from the evidence and the counts in its chunks.
//
// A pass accepts some candidates and adds one token of the model's own. The first token comes with the prompt: its pass
// is 0. So the pass of every token follows from the tokens themselves. Rows are counted by the server; where several
// passes went by between two chunks, each gets their mean and `exact` is false.

import { OWN } from "./sources.js";

const NO_STATS = { passes: 0, rows: 0, drafted: 0, accepted: 0, n_gen: 0, gen_ms: 0 };

export class PassLog {
  constructor() {
    this.tokens = []; // {id, text, logprob, margin, from_draft, source, pass}
    this.passes = []; // pass i is passes[i - 1]: {accepted, own, rows, drafted, exact}
    this.stats = NO_STATS;
    this.tree = null; // {nodes} of the newest pass, where the server tells it
    this.current = 0;
  }

  /** Takes the `maskprobe` part of a chunk; returns its new tokens. */
  add(part) {
    if (part.stats) this.count(part.stats);
    if (part.tree) this.tree = part.tree;
    return (part.tokens ?? []).map((token) => this.place(token));
  }

  place(token) {
    const placed = { ...token, pass: this.current };
    this.tokens.push(placed);
    if (this.current > 0) {
      const pass = this.at(this.current);
      if (token.source === OWN) pass.own = placed;
      else pass.accepted.push(placed);
    }
    if (this.current === 0 || token.source === OWN) this.current += 1;
    return placed;
  }

  count(stats) {
    const before = this.stats;
    const n = stats.passes - before.passes;
    for (let i = before.passes + 1; i <= stats.passes; i++) {
      const pass = this.at(i);
      pass.rows = (stats.rows - before.rows) / n;
      pass.drafted = (stats.drafted - before.drafted) / n;
      pass.exact = n === 1;
    }
    this.stats = stats;
  }

  at(number) {
    while (this.passes.length < number) {
      this.passes.push({ accepted: [], own: null, rows: 0, drafted: 0, exact: false });
    }
    return this.passes[number - 1];
  }

  /** The number of the newest pass that has given tokens; 0 where there was none. */
  get newest() {
    const last = this.tokens.at(-1);
    return last ? last.pass : 0;
  }

  /** Tokens per second of the engine's steps after the first token; null before there are any. */
  get rate() {
    const { n_gen, gen_ms } = this.stats;
    return n_gen > 1 && gen_ms > 0 ? (1000 * (n_gen - 1)) / gen_ms : null;
  }

  get tokensPerPass() {
    const { n_gen, passes } = this.stats;
    return passes ? (n_gen - 1) / passes : null;
  }
}
