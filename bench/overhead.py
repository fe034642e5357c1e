"""What a step costs besides llama_decode: layout, cache bookkeeping, top-K, and all of the Python layer.

    python models/random_gguf.py llama-3.2-1b 1b.gguf --type q4_0
    python bench/overhead.py -m 1b.gguf

Prints the median over the steps of the time inside llama_decode and of all else, for each context size.
"""

import argparse
import statistics
import sys

from maskprobe import Engine, MaskProbe, Model, SamplingParams, Session, mask_embedding


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--tree", default="7", help="default 7: 16 rows with a mask behind every node")
    parser.add_argument("--mask-init", default="mean")
    parser.add_argument("-c", "--ctx-sizes", type=int, nargs="+", default=[4096, 32768])
    parser.add_argument("-d", "--depth", type=int, default=256, help="tokens in the cache before the first step")
    parser.add_argument("-n", "--steps", type=int, default=30)
    parser.add_argument("-t", "--threads", type=int, default=0)
    args = parser.parse_args()
    model = Model(args.model, n_threads=args.threads)
    print("| n_ctx | rows | llama_decode ms | all else ms | of the step | accepted beyond the root |")
    print("|---|---|---|---|---|---|")
    for n_ctx in args.ctx_sizes:
        with Session(model, n_ctx=n_ctx, n_threads=args.threads) as session:
            engine = Engine(session, MaskProbe(model, tree=args.tree, mask=mask_embedding(args.mask_init, model)))
            engine.begin([100 + i for i in range(args.depth)], SamplingParams(temp=0.0), ignore_eos=True)
            engine.step()  # the first tree is the root with its masks only
            steps = [engine.step() for _ in range(args.steps)]
        decode = statistics.median(step.decode_ms for step in steps)
        other = statistics.median(step.engine_ms for step in steps)
        rows = statistics.mean(step.n_rows for step in steps)
        accepted = sum(len(step.path) - 1 for step in steps)
        share = 100 * other / (decode + other)
        print(f"| {session.n_ctx} | {rows:.0f} | {decode:.1f} | {other:.2f} | {share:.2f} % | {accepted} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
