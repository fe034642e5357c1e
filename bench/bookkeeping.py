"""What a shared pass costs besides llama_decode: layout, sequence ids, cells, top-K, and the commits after it.

    python bench/bookkeeping.py -m SmolLM2-135M-Instruct.Q4_1.gguf

Sessions of equal length, each with cells of its own, and a tree of the same shape for each in every pass; half of the
longest path is accepted. Prints the medians over the passes as a table: inside llama_decode, all else inside
mp_context_decode (most of it is the top-K), and all commits of a pass together. The share is that of the last two in
the sum.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

from maskprobe import Context, Model, Session, TokenTree

SHAPES = ("chain", "tree")


def tree_of(shape: str, n_rows: int, first: int) -> TokenTree:
    """A chain, or two children of the root with the rest below the first."""
    tree = TokenTree(first)
    for i in range(1, n_rows):
        parent = i - 1 if shape == "chain" or i == 1 else max(i - 2, 0)
        tree.add(parent, first + i, 0.0)
    return tree


def measure(sessions: Sequence[Session], context: Context, shape: str, n_rows: int, n_passes: int) -> list[float]:
    """Medians over the passes, microseconds: llama_decode, the rest of the pass, all commits."""
    times: list[tuple[int, int, float]] = []
    for i in range(n_passes):
        trees = [tree_of(shape, n_rows, 100 + (i + 10 * k) % 300) for k in range(len(sessions))]
        result = context.decode(list(zip(sessions, trees, strict=True)))[0]
        path = trees[0].path_to(max(range(n_rows), key=trees[0].depths.__getitem__))
        path = path[: (len(path) + 1) // 2]
        started = time.perf_counter()
        for session in sessions:
            session.commit(path)
        times.append((result.decode_us, result.engine_us, 1e6 * (time.perf_counter() - started)))
    return [statistics.median(column) for column in zip(*times[1:], strict=True)]  # the first pass lends the ids


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-s", "--sessions", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("-n", "--rows", type=int, default=4, help="of each session's tree, default 4")
    parser.add_argument("--tokens", type=int, default=512, help="of each session before the passes, default 512")
    parser.add_argument("-c", "--ctx-size", type=int, default=1024, help="tokens of a session, default 1024")
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--passes", type=int, default=20)
    args = parser.parse_args()
    model = Model(args.model, n_threads=args.threads)
    print("| sessions | cells | rows of a pass | llama_decode | the rest of the pass | commits | share |")
    print("|---|---|---|---|---|---|---|")
    for n in args.sessions:
        settings = {"n_ctx": args.ctx_size, "n_rows_max": n * args.rows, "n_threads": args.threads}
        with Context(model, n_sessions_max=n, **settings) as context:
            sessions = [context.session() for _ in range(n)]
            for shape in SHAPES:
                for k, session in enumerate(sessions):
                    session.set_prefix([100 + (7 * i + k) % 300 for i in range(args.tokens)])
                decode, rest, commits = measure(sessions, context, shape, args.rows, args.passes)
                share = 100 * (rest + commits) / (decode + rest + commits)
                print(
                    f"| {n} | {n * context.n_ctx} | {n} x {shape} of {args.rows} | {decode / 1000:.1f} ms | "
                    f"{rest / 1000:.2f} ms | {commits / 1000:.2f} ms | {share:.1f} % |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
