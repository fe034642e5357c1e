"""What a pass costs besides llama_decode: layout, cache bookkeeping, top-K, drafting, planning, accepting and learning.

    python models/random_gguf.py llama-3.2-1b 1b.gguf --type q4_0
    python bench/overhead.py -m 1b.gguf
    python bench/overhead.py -m 1b.gguf --propose esp --rows 16 --kernels ours

Prints, for each context size, the medians over the passes of a text of the time inside llama_decode and of all else in
the engine's step. Every pass has the rows that are asked for, as far as there are candidates.
"""

import argparse
import statistics
import sys

from maskprobe import Engine, Model, SamplingParams, Stats
from maskprobe.proposers import SOURCES


def times_of_passes(engine: Engine, depth: int, n_passes: int) -> tuple[list[float], list[float], Stats]:
    """Milliseconds inside llama_decode and outside of it, of each pass, and the counts of all."""
    prompt = [100 + i for i in range(depth)]
    decode, other = [], []
    with engine.generate(prompt, SamplingParams(temp=0.0), ignore_eos=True) as generation:
        passes, decode_ms, engine_ms = 0, 0.0, 0.0
        for _ in generation:
            stats = generation.stats
            if stats.passes == passes:  # another token of the same pass
                continue
            decode.append(stats.decode_ms - decode_ms)
            other.append(stats.engine_ms - engine_ms)
            passes, decode_ms, engine_ms = stats.passes, stats.decode_ms, stats.engine_ms
            if passes == n_passes:
                break
    return decode, other, generation.stats


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--propose", choices=list(SOURCES), default="all", metavar="NAME", help="default all")
    parser.add_argument("--rows", type=int, default=16, help="of a pass, default 16")
    parser.add_argument("--kernels", choices=["auto", "ours", "stock"], default="auto")
    parser.add_argument("-c", "--ctx-sizes", type=int, nargs="+", default=[4096, 32768])
    parser.add_argument("-d", "--depth", type=int, default=256, help="tokens in the cache before the first pass")
    parser.add_argument("-n", "--passes", type=int, default=30)
    parser.add_argument("-t", "--threads", type=int, default=0)
    args = parser.parse_args()
    model = Model(args.model, n_threads=args.threads, kernels=args.kernels)
    print("| n_ctx | rows | llama_decode ms | all else ms | of the pass | accepted |")
    print("|---|---|---|---|---|---|")
    for n_ctx in args.ctx_sizes:
        settings = {"n_ctx": n_ctx, "n_threads": args.threads, "proposer": args.propose, "rows": args.rows}
        with Engine(model, **settings) as engine:
            decode, other, stats = times_of_passes(engine, args.depth, args.passes)
            n_ctx = engine.context.n_ctx
        inside, outside = statistics.median(decode), statistics.median(other)
        share = f"{100 * outside / (inside + outside):.2f} %"
        cells = [n_ctx, f"{stats.rows_per_pass:.0f}", f"{inside:.2f}", f"{outside:.3f}", share, stats.n_accepted]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
