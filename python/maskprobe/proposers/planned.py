"""A source of candidates whose passes have the rows that pay on this machine: none, where none do."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..cost import CostCurve
from ..masks import MaskEmbedding
from ..planner import Planner
from ..session import Pass
from ..tree import TokenTree
from .base import Proposer
from .evidence import Evidence

if TYPE_CHECKING:
    from ..session import Session
    from ..state import StateFile

CALIBRATE_ALL, CALIBRATE_EVERY = 32, 4  # all of the first drafts are calibrated with, then one in four
WAKING = 4  # tokens in a row that followed the same two tokens before: they end a nap
LOOK_EVERY = 16  # passes of a nap: in one of so many the time is taken
MASK_TRIAL = 64  # drafts between two masks that are placed only to learn what masks are worth


Draft = tuple[list[int], list[int], list[float]]  # tokens, parents and claimed probabilities of the nodes of a tree
PARENTS, PROBABILITIES = 1, 2
LEAST = 1e-300  # probability that a logarithm is taken of


class Planned(Proposer):
    """Asks `source` for more than may be needed and takes the first nodes, as many as the planner says.

    The nodes of the source's tree are put into the order of their claimed probabilities, if they are not in it. With
    `mask`, Evidence gets masks to learn from where they are worth more than the candidates whose rows they take.

    `earned` counts the accepted candidates by what spoke for them.
    """

    def __init__(self, source: Proposer, *, mask: MaskEmbedding | None = None) -> None:
        self.source = source
        self.planner = Planner(source.n_rows_max)
        self.n_rows_max = source.n_rows_max
        self.n_top = source.n_top
        self.earned: Counter[str] = Counter()
        self.n_naps = 0  # passes in which the source was left alone
        self._mask = mask if isinstance(source, Evidence) else None
        self.state: StateFile | None = None  # where what is learned is kept; to be set before an engine uses it
        self._session: Session | None = None
        self._drafted: Draft | None = None  # what the source grew, the pass over its first nodes is under way
        self._followed: dict[tuple[int, int], int] = {}  # what came behind two tokens
        self._n_read = 0  # tokens of the context that are in it
        self._repeated = 0  # of the last tokens, how many it had foretold
        self._n_drafts = 0
        self._started = 0

    def attach(self, session: "Session") -> None:
        self.source.attach(session)
        if self._session is not None and session is not self._session:
            self.planner.cost = CostCurve()  # another session may have other threads or another cache
        self._session = session
        if self.state is not None:
            self.state.restore(self, session)

    def begin(self, tokens: Sequence[int]) -> None:
        self.source.begin(tokens)
        self.planner.begin()
        self._drafted = None
        self._followed, self._n_read, self._repeated = {}, 0, 0
        if self._mask is not None:
            self._mask.begin(tokens, 1)
        session, cost = self._session, self.planner.cost
        cost.at_depth(session.n_past)
        room = min(self.n_rows_max, session.n_ctx - session.n_past)
        if room > 1:
            cost.calibrate(lambda n_rows: _time_of_pass(session, tokens[-1], n_rows), room)

    def end(self) -> None:
        self.source.end()
        if self.state is not None:
            self.state.keep(self, self._session)

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        self._started = time.perf_counter_ns()
        planner = self.planner
        self._drafted = None
        if planner.n_napping > 0 and not self._wakes(context):
            planner.n_napping -= 1
            self.n_naps += 1
            self.n_top = 1
            return TokenTree(context[-1])
        if room < 2 or not planner.cost.measured:
            return TokenTree(context[-1])
        self.n_top = self.source.n_top
        planner.cost.at_depth(len(context) - 1)
        room = min(room, planner.widest)
        is_evidence = isinstance(self.source, Evidence)
        drafted = self.source.draft(context, room) if is_evidence else _in_order(self.source.propose(context, room))
        self._drafted = drafted
        n_rows = planner.rows(drafted[PROBABILITIES])
        return _first(drafted, n_rows) if self._mask is None else self._with_masks(drafted, n_rows)

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        if self.planner.n_napping % LOOK_EVERY != 0:
            return
        drafted = self._drafted
        if drafted is not None:
            self._n_drafts += 1
            if self._n_drafts < CALIBRATE_ALL or self._n_drafts % CALIBRATE_EVERY == 0:
                self._calibrate(drafted, tree.n_nodes, path, emitted)
            if len(path) > 1:
                self._count_earned(path[1:])
            self.source.observe(tree, result, path, emitted)
        total_us = (time.perf_counter_ns() - self._started) / 1000
        core_us = result.decode_us + result.engine_us
        self.planner.observe(tree.n_rows, len(emitted), core_us, total_us, planned=drafted is not None)

    def _count_earned(self, accepted: Sequence[int]) -> None:
        if isinstance(self.source, Evidence):
            sources = self.source.sources
            self.earned.update(sources[node] for node in accepted)
        else:
            self.earned[type(self.source).__name__] += len(accepted)

    def _wakes(self, context: Sequence[int]) -> bool:
        """Whether the text has begun to repeat itself: its last tokens all followed the same two tokens before."""
        for i in range(max(self._n_read, 2), len(context)):
            pair, token = (context[i - 2], context[i - 1]), context[i]
            self._repeated = self._repeated + 1 if self._followed.get(pair) == token else 0
            self._followed[pair] = token
        self._n_read = len(context)
        if self._repeated >= WAKING:
            self._repeated = 0
            self.planner.n_napping = 0
            return True
        return False

    def _calibrate(self, drafted: Draft, n_decoded: int, path: Sequence[int], emitted: Sequence[int]) -> None:
        """What became of every candidate whose parent was decoded. Of those further down, only failures would ever be
        known, which would make all of them look bad."""
        tokens, parents, probabilities = drafted
        observe = self.planner.calibration.observe
        drawn = dict(zip(path, emitted, strict=True))
        for node in range(1, len(tokens)):
            if parents[node] < n_decoded:
                observe(probabilities[node], drawn.get(parents[node]) == tokens[node])
        self.planner.calibration.update()

    def _with_masks(self, drafted: Draft, n_rows: int) -> TokenTree:
        """A mask behind a node is worth what masks gain times how likely the path ends there. It takes the place of
        the least likely candidate while that one is worth less. Now and then one is placed as a trial."""
        trial = n_rows > 2 and self._n_drafts % MASK_TRIAL == 0
        probability = self.planner.calibration.probability
        gain = self.source.mask_gain if n_rows > 1 else 0.0
        if n_rows < 2 or not (trial or gain > probability(drafted[PROBABILITIES][n_rows - 1])):
            return _first(drafted, n_rows)
        values = [probability(claimed) for claimed in drafted[PROBABILITIES][:n_rows]]
        ends = [1.0, *values[1:]]
        for node in range(1, n_rows):
            ends[drafted[PARENTS][node]] -= values[node]
        owners, n_nodes = [], n_rows
        for owner in sorted(range(n_rows), key=lambda node: -ends[node]):
            if n_nodes <= owner + 1 or (gain * ends[owner] <= values[n_nodes - 1] and not (trial and not owners)):
                break
            n_nodes -= 1
            owners.append(owner)
        tree = _first(drafted, n_nodes)
        owners = [owner for owner in owners if owner < n_nodes]
        for owner, block in zip(owners, self._mask.vectors([tree.tokens[owner] for owner in owners]), strict=True):
            tree.add_masks(owner, block)
        return tree

    def summary(self) -> str:
        """One line: what spoke for the accepted candidates, and how often drafting was off, and why."""
        earned = ", ".join(f"{name} {count}" for name, count in self.earned.most_common())
        parts = [f"accepted by {earned}"] if earned else []
        cost = self.planner.cost
        if self.n_naps and cost.measured:
            ratio = cost.time(4) / cost.time(1)
            parts.append(
                f"off in {self.n_naps} passes: too few accepted for passes of 4 rows at {ratio:.1f} times one row"
            )
        return "; ".join(parts) or "no candidate was accepted"


def _first(drafted: Draft, n_nodes: int) -> TokenTree:
    """The tree of the first nodes."""
    tokens, parents, probabilities = drafted
    if n_nodes == 1:
        return TokenTree(tokens[0])
    return TokenTree.grown(
        tokens[:n_nodes], parents[:n_nodes], [math.log(max(p, LEAST)) for p in probabilities[:n_nodes]]
    )


def _in_order(tree: TokenTree) -> Draft:
    """The nodes in the order of their log-probabilities; parents stay before their children."""
    order = sorted(range(tree.n_nodes), key=lambda node: (-tree.logprobs[node], node))
    place = {node: i for i, node in enumerate(order)}
    return (
        [tree.tokens[node] for node in order],
        [place[tree.parents[node]] if tree.parents[node] >= 0 else -1 for node in order],
        [math.exp(tree.logprobs[node]) for node in order],
    )


def _time_of_pass(session: "Session", root: int, n_rows: int) -> float:
    """Microseconds of a pass over a root and its children; the cache is as before."""
    tree = TokenTree(root)
    for token in range(n_rows - 1):
        tree.add(0, token % session.model.info.n_vocab, 0.0)
    result = session.decode(tree, 2)
    session.rollback()
    return result.decode_us + result.engine_us
