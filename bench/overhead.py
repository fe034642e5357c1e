"""What a step costs besides llama_decode: layout, cache bookkeeping, top-K, and all of the Python layer.

    python models/random_gguf.py llama-3.2-1b 1b.gguf --type q4_0
    python bench/overhead.py -m 1b.gguf
    python bench/overhead.py -m 1b.gguf --propose all --rows 16 --kernels ours

Prints the median over the steps of the time inside llama_decode, of all else, and, as a part of that, of drafting and
planning (propose and observe), for each context size. With `all`, every pass has the rows that are asked for, and the
planner is asked as well.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from maskprobe import Engine, Evidence, MaskProbe, Model, Planned, Proposer, SamplingParams, Session, mask_embedding
from maskprobe.planner import Planner


class WideEvidence(Evidence):
    """Is drafted whole and planned, and then every pass takes all the rows there are."""

    def planned(self, planner: Planner, context: Sequence[int], room: int) -> tuple[Any, int]:
        draft = self.draft(context, room)
        planner.rows(draft, len(context) - 1)
        return draft, draft.n_nodes

    def observe_planned(self, planner: Planner, *pass_over: Any) -> None:
        super().observe_planned(planner, *pass_over)
        planner.outlook.napping = False


def timed(proposer: Proposer, spent: list[float]) -> Proposer:
    """Adds the milliseconds of each propose() and observe() to the last entry of `spent`."""

    def wrapped(method):
        def call(*args):
            started = time.perf_counter()
            result = method(*args)
            spent[-1] += 1000 * (time.perf_counter() - started)
            return result

        return call

    proposer.propose, proposer.observe = wrapped(proposer.propose), wrapped(proposer.observe)
    return proposer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--tree", default="7", help="default 7: 16 rows with a mask behind every node")
    parser.add_argument("--mask-init", default="mean")
    parser.add_argument("--propose", choices=["esp", "all"], default="esp")
    parser.add_argument("--rows", type=int, default=16, help="of all, default 16")
    parser.add_argument("--kernels", choices=["auto", "ours", "stock"], default="auto")
    parser.add_argument("-c", "--ctx-sizes", type=int, nargs="+", default=[4096, 32768])
    parser.add_argument("-d", "--depth", type=int, default=256, help="tokens in the cache before the first step")
    parser.add_argument("-n", "--steps", type=int, default=30)
    parser.add_argument("-t", "--threads", type=int, default=0)
    args = parser.parse_args()
    model = Model(args.model, n_threads=args.threads, kernels=args.kernels)
    print("| n_ctx | rows | llama_decode ms | all else ms | of the step | drafting ms | of the step | accepted |")
    print("|---|---|---|---|---|---|---|---|")
    for n_ctx in args.ctx_sizes:
        with Session(model, n_ctx=n_ctx, n_threads=args.threads) as session:
            if args.propose == "all":
                proposer = Planned(WideEvidence(model, rows=args.rows))
            else:
                proposer = MaskProbe(model, tree=args.tree, mask=mask_embedding(args.mask_init, model))
            spent = [0.0]
            engine = Engine(session, timed(proposer, spent))
            engine.begin([100 + i for i in range(args.depth)], SamplingParams(temp=0.0), ignore_eos=True)
            engine.step()  # the first tree is the root with its masks only
            steps = []
            for _ in range(args.steps):
                spent.append(0.0)
                steps.append(engine.step())
        decode = statistics.median(step.decode_ms for step in steps)
        other = statistics.median(step.engine_ms for step in steps)
        rows = statistics.mean(step.n_rows for step in steps)
        accepted = sum(len(step.path) - 1 for step in steps)
        drafting = statistics.median(spent[-args.steps :])
        shares = [f"{100 * part / (decode + other):.2f} %" for part in (other, drafting)]
        cells = [session.n_ctx, f"{rows:.0f}", f"{decode:.1f}", f"{other:.2f}", shares[0], f"{drafting:.2f}", shares[1]]
        print(f"| {' | '.join(map(str, cells))} | {accepted} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
