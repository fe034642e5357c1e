"""A source of candidates whose passes have the rows that pay on this machine: none, where none do."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

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
LOOK_EVERY = 16  # passes of a nap: in one of so many the time is taken
MASK_TRIAL = 64  # drafts between two masks that are placed only to learn what masks are worth


class Planned(Proposer):
    """Asks `source` for more than may be needed and takes the first nodes, as many as the planner says.

    The nodes of the source's tree are put into the order of their claimed probabilities, if they are not in it. With
    `mask`, Evidence gets masks to learn from where they are worth more than the candidates whose rows they take.

    `earned` counts the accepted candidates by what spoke for them, where the source tells.
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
        self._sources: list[str | None] = []
        self._drafted: TokenTree | None = None  # what the source grew, the pass over its first nodes is under way
        self._n_drafts = 0
        self._started = 0

    def attach(self, session: "Session") -> None:
        self.source.attach(session)
        self._session = session
        if self.state is not None:
            self.state.restore(self, session)

    def begin(self, tokens: Sequence[int]) -> None:
        self.source.begin(tokens)
        self.planner.begin()
        self._drafted = None
        if self._mask is not None:
            self._mask.begin(tokens, 1)
        session, cost = self._session, self.planner.cost
        cost.at_depth(session.n_past)
        room = min(self.n_rows_max, session.n_ctx - session.n_past)
        if not cost.measured and room > 1:
            cost.calibrate(lambda n_rows: _time_of_pass(session, tokens[-1], n_rows), room)

    def end(self) -> None:
        self.source.end()
        if self.state is not None:
            self.state.keep(self, self._session)

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        self._started = time.perf_counter_ns()
        planner = self.planner
        self._drafted = None
        if planner.n_napping > 0:
            planner.n_napping -= 1
            self.n_naps += 1
            self.n_top = 1
            return TokenTree(context[-1])
        if room < 2 or not planner.cost.measured:
            return TokenTree(context[-1])
        self.n_top = self.source.n_top
        planner.cost.at_depth(len(context) - 1)
        self._drafted = drafted = _by_probability(self.source.propose(context, min(room, planner.widest)))
        n_rows = planner.rows(drafted.logprobs)
        if isinstance(self.source, Evidence):
            self._sources = self.source.sources
        return drafted.first(n_rows) if self._mask is None else self._with_masks(drafted, n_rows, room)

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        if self.planner.n_napping % LOOK_EVERY != 0:
            return
        drafted = self._drafted
        if drafted is not None:
            self._n_drafts += 1
            if drafted.n_nodes > 1 and (self._n_drafts < CALIBRATE_ALL or self._n_drafts % CALIBRATE_EVERY == 0):
                self._calibrate(drafted, path, emitted)
            if self._sources:
                self.earned.update(self._sources[node] for node in path[1:])
            self.source.observe(tree, result, path, emitted)
        total_us = (time.perf_counter_ns() - self._started) / 1000
        core_us = result.decode_us + result.engine_us
        self.planner.observe(tree.n_rows, len(emitted), core_us, total_us, planned=drafted is not None)

    def _calibrate(self, drafted: TokenTree, path: Sequence[int], emitted: Sequence[int]) -> None:
        """What became of every candidate, the ones not decoded included: the token behind their parent is known, or
        their parent was not accepted."""
        calibration, child = self.planner.calibration, drafted.child
        accepted = set(path)
        unknown = -1
        if (beyond := child(path[-1], emitted[-1])) is not None:  # right, but not decoded: what follows it is not known
            accepted.add(beyond)
            unknown = beyond
        parents, logprobs = drafted.parents, drafted.logprobs
        for node in range(1, drafted.n_nodes):
            if parents[node] == unknown and unknown >= 0:
                continue
            calibration.observe(logprobs[node], node in accepted)
        calibration.update()

    def _with_masks(self, drafted: TokenTree, n_rows: int, room: int) -> TokenTree:
        """A mask behind a node is worth what masks gain times how likely the path ends there. It takes the place of
        the least likely candidate while that one is worth less. Now and then the root gets one, as a trial."""
        gain = self.source.mask_gain
        trial = n_rows > 2 and self._n_drafts % MASK_TRIAL == 0
        probability = self.planner.calibration.probability
        if n_rows < 2 or not (trial or gain > probability(drafted.logprobs[n_rows - 1])):
            return drafted.first(n_rows)
        ends = [probability(logprob) if node else 1.0 for node, logprob in enumerate(drafted.logprobs[:n_rows])]
        values = ends[:]
        for node in range(1, n_rows):
            ends[drafted.parents[node]] -= values[node]
        owners, n_nodes = [], n_rows
        for owner in sorted(range(n_rows), key=lambda node: -ends[node]):
            if n_nodes <= owner + 1 or (gain * ends[owner] <= values[n_nodes - 1] and not (trial and not owners)):
                break
            n_nodes -= 1
            owners.append(owner)
        tree = drafted.first(n_nodes)
        owners = [owner for owner in owners if owner < n_nodes]
        if owners:
            for owner, block in zip(owners, self._mask.vectors([tree.tokens[owner] for owner in owners]), strict=True):
                tree.add_masks(owner, block[: min(1, room - tree.n_rows)])
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


def _by_probability(tree: TokenTree) -> TokenTree:
    """The same tree with its nodes in the order of their log-probabilities; parents stay before their children."""
    logprobs = tree.logprobs
    if all(logprobs[i] >= logprobs[i + 1] for i in range(len(logprobs) - 1)):
        return tree
    order = sorted(range(tree.n_nodes), key=lambda node: (-logprobs[node], node))
    place = {node: i for i, node in enumerate(order)}
    return TokenTree.grown(
        [tree.tokens[node] for node in order],
        [place[tree.parents[node]] if tree.parents[node] >= 0 else -1 for node in order],
        [logprobs[node] for node in order],
    )


def _time_of_pass(session: "Session", root: int, n_rows: int) -> float:
    """Microseconds of a pass over a root and its children; the cache is as before."""
    tree = TokenTree(root)
    for token in range(n_rows - 1):
        tree.add(0, token % session.model.info.n_vocab, 0.0)
    result = session.decode(tree, 2)
    session.rollback()
    return result.decode_us + result.engine_us
