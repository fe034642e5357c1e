"""A source of candidates whose passes have the rows that pay on this machine: none, where none do."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._capi import ffi
from ..masks import MaskEmbedding
from ..planner import Draft, Planner
from ..session import Pass
from ..tree import TokenTree
from .base import Proposer
from .evidence import Evidence, chain_of, children_of, first_nodes

if TYPE_CHECKING:
    from ..session import Session
    from ..state import StateFile

LOOK_EVERY = 32  # passes of a nap: so often the text is looked at
TIMED_NAP = 4 * LOOK_EVERY  # passes of naps: one of so many is timed, as what one takes without any work for it
FIRST_MASKING_US = 50.0  # to place masks in a tree, until it was done
MASKING_RATE = 0.1  # of the newest tree, in the running mean of what it takes to place masks
MASK_TRIAL = 64  # drafts between two masks that are placed only to learn what masks are worth


class Planned(Proposer):
    """Asks `source` for more than may be needed and takes the first nodes, as many as the planner says.

    The nodes of the source's tree are put into the order of their claimed probabilities, if they are not in it. With
    `mask`, Evidence gets masks to learn from where they are worth more than the candidates whose rows they take.
    """

    def __init__(self, source: Proposer, *, mask: MaskEmbedding | None = None) -> None:
        self.source = source
        self.planner = Planner(source.n_rows_max)
        self.n_rows_max = source.n_rows_max
        self.n_top = source.n_top
        self._n_accepted = 0
        self.n_naps = 0  # passes in which the source was left alone
        self.state: StateFile | None = None  # where what is learned is kept; to be set before an engine uses it
        self._is_evidence = isinstance(source, Evidence)
        self._mask = mask if self._is_evidence else None
        self._session: Session | None = None
        self._draft: Any = None  # an mp_draft, the pass over its first nodes is under way
        self._own: Draft | None = None  # what it is, where the source is no drafter
        self._n_drafts = 0
        self._masking_us = FIRST_MASKING_US  # a running mean
        self._n_unseen = 0  # passes like the last planned one before the next one that is planned
        self._n_naps_left = 0  # passes of a nap before the next look
        self._is_seen = True  # the pass under way
        self._n_rows = 1  # of the last plan
        self._started = 0
        self._learning = 0  # nanoseconds that it took to learn from the last pass

    @property
    def n_prompt_rows(self) -> int:
        return 0 if self.planner.outlook.napping else self.source.n_prompt_rows

    def attach(self, session: "Session") -> None:
        self.source.attach(session)
        if self._session is not None and session is not self._session:
            known = self.planner.learned()
            self.planner = Planner(self.n_rows_max)  # another session may have other threads or another cache
            self.planner.load_learned(known)
            self.n_top, self._n_unseen, self._n_naps_left = self.source.n_top, 0, 0  # it is in no nap
        self._session = session
        if self.state is not None:
            self.state.restore(self, session)

    def begin(self, tokens: Sequence[int]) -> None:
        self.source.begin(tokens)
        self._draft = None
        if self._mask is not None:
            self._mask.begin(tokens, 1)
        session, planner = self._session, self.planner
        planner.at_depth(session.n_past)
        room = min(self.n_rows_max, session.max_rows, session.n_ctx - session.n_past)
        if room > 1:
            planner.calibrate(lambda n_rows: self._time_of_pass(tokens[-1], n_rows), room)

    def learn_prompt(self, top_tokens: np.ndarray, top_logprobs: np.ndarray) -> None:
        self.source.learn_prompt(top_tokens, top_logprobs)

    def end(self) -> None:
        self.source.end()
        if self.state is not None:
            self.state.keep(self, self._session)

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        if self._n_naps_left > 0:
            self._n_naps_left -= 1
            self.n_naps += 1
            self._is_seen = self.n_naps % TIMED_NAP == 0
            if self._is_seen:
                self._started = time.perf_counter_ns()
            return TokenTree(context[-1])
        planner = self.planner
        outlook = planner.outlook
        self._draft = None
        if self._n_unseen > 0 and not outlook.napping and self._goes_on(context):
            self._n_unseen -= 1
            self._is_seen = False
            return self.source.propose(context, min(room, self._n_rows))
        self._n_unseen = 0
        self._is_seen = True
        self._started = time.perf_counter_ns()
        if outlook.napping:
            planner.rest(LOOK_EVERY, self.source.n_repeated(context) if self._is_evidence else 0)
        if outlook.napping:
            self.n_naps += 1
            self._n_naps_left, self._n_rows = LOOK_EVERY - 1, 1
            self._is_seen = False
            self._learning = 0
            self.n_top = 1
            return TokenTree(context[-1])
        if outlook.plain or min(room, self.n_rows_max) < 2:
            self._learning = 0
            return TokenTree(context[-1])
        self.n_top = self.source.n_top
        if self._is_evidence:
            self._draft, n_rows = self.source.planned(planner, context, room)
        else:
            tree = self.source.propose(context, min(room, self.n_rows_max))
            self._own = _in_order(tree if self._session.model.info.can_tree else tree.best_chain())
            self._draft = self._own.pointer
            n_rows = planner.rows(self._draft, len(context) - 1)
        self._n_unseen, self._n_rows = outlook.n_same, n_rows
        if self._mask is not None and n_rows > 1 and (self._masks_pay() or self._on_trial(n_rows)):
            started = time.perf_counter_ns()
            tree = self._with_masks(n_rows)
            self._masking_us += MASKING_RATE * ((time.perf_counter_ns() - started) / 1000 - self._masking_us)
            return tree
        return first_nodes(self._draft, n_rows)

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        if not self._is_seen:
            if self._n_rows > 1:
                self.source.observe(tree, result, path, emitted)
            return
        now = time.perf_counter_ns()
        total_us = (now - self._started + self._learning) / 1000
        core_us = max(result.decode_us + result.engine_us, 1)
        draft, planner = self._draft, self.planner
        if draft is not None:
            self._n_drafts += 1
            self._n_accepted += len(path) - 1
        if draft is not None and self._is_evidence:
            self.source.observe_planned(planner, tree, result, path, emitted, core_us, total_us)
        else:
            if draft is not None:
                self.source.observe(tree, result, path, emitted)
            planner.observe(draft, tree.n_rows, tree.n_nodes, path, emitted, core_us, total_us)
        self._learning = time.perf_counter_ns() - now

    def _time_of_pass(self, newest: int, n_rows: int) -> float:
        """Microseconds of a pass over the newest token and children of it, from which a drafter learns; where there can
        be no tree, of a chain."""
        session, can_tree = self._session, self._session.model.info.can_tree
        learns = self._is_evidence and can_tree
        tokens = self.source.unseen(n_rows - 1) if learns else []
        others = (token for token in range(session.model.info.n_vocab) if token not in tokens)
        tokens += itertools.islice(others, n_rows - 1 - len(tokens))
        if learns:
            result = self.source.explore(session, newest, tokens)
        else:
            result = session.decode((children_of if can_tree else chain_of)(newest, tokens), self.n_top)
            session.rollback()
        return max(result.decode_us + result.engine_us, 1)

    def _goes_on(self, context: Sequence[int]) -> bool:
        """Whether the text is still of the kind for which the last plan was made."""
        return not self._is_evidence or self.source.repeats(context) == self.planner.outlook.repeats

    @property
    def earned(self) -> Counter[str]:
        """Accepted candidates so far, by what spoke for them."""
        if self._is_evidence:
            return self.source.earned
        return Counter({type(self.source).__name__: self._n_accepted})

    def _masks_pay(self) -> bool:
        """A mask may gain more than the least likely candidate, and more than it takes to place it."""
        gain = self._draft.mask_gain - self.planner.outlook.weakest
        return gain > 0 and gain > self._masking_us / self.planner.time(1)

    def _on_trial(self, n_rows: int) -> bool:
        return n_rows > 2 and self._n_drafts % MASK_TRIAL == 0

    def _with_masks(self, n_rows: int) -> TokenTree:
        """A mask behind a node is worth what masks gain times how likely the path ends there. It takes the place of
        the least likely candidate while that one is worth less. Now and then one is placed as a trial."""
        draft, probability = self._draft, self.planner.probability
        trial, gain = self._on_trial(n_rows), draft.mask_gain
        values = [probability(claimed) for claimed in ffi.unpack(draft.probabilities, n_rows)]
        ends = [1.0, *values[1:]]
        for node in range(1, n_rows):
            ends[draft.parents[node]] -= values[node]
        owners, n_nodes = [], n_rows
        for owner in sorted(range(n_rows), key=lambda node: -ends[node]):
            if n_nodes <= owner + 1 or (gain * ends[owner] <= values[n_nodes - 1] and not (trial and not owners)):
                break
            n_nodes -= 1
            owners.append(owner)
        tree = first_nodes(draft, n_nodes)
        owners = [owner for owner in owners if owner < n_nodes]
        for owner, block in zip(owners, self._mask.vectors([tree.tokens[owner] for owner in owners]), strict=True):
            tree.add_masks(owner, block)
        return tree

    def summary(self) -> str:
        """One line: what spoke for the accepted candidates, and how often drafting was off, and why."""
        earned = ", ".join(f"{name} {count}" for name, count in self.earned.most_common() if count)
        parts = [f"accepted by {earned}"] if earned else []
        if self.n_naps:
            ratio = self.planner.time(4) / self.planner.time(1)
            parts.append(
                f"off in {self.n_naps} passes: too few accepted for passes of 4 rows at {ratio:.1f} times one row"
            )
        return "; ".join(parts) or "no candidate was accepted"


def _in_order(tree: TokenTree) -> Draft:
    """The nodes in the order of their log-probabilities; parents stay before their children."""
    order = sorted(range(tree.n_nodes), key=lambda node: (-tree.logprobs[node], node))
    place = {node: i for i, node in enumerate(order)}
    return Draft(
        [tree.tokens[node] for node in order],
        [place[tree.parents[node]] if tree.parents[node] >= 0 else -1 for node in order],
        [math.exp(min(tree.logprobs[node], 0.0)) for node in order],
    )
