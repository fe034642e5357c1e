"""Log-probabilities of a prompt's own tokens, for answers that echo the prompt."""

from collections.abc import Sequence
from typing import Any

from ..session import Session
from ..tree import TokenTree
from .logprobs import LogprobLog, logprobs_of_completion

ROWS = 32  # tokens of a pass at most


def prompt_logprobs(session: Session, tokens: Sequence[int], n_top: int) -> dict[str, Any]:
    """What a completion's "logprobs" says of the prompt's tokens, without one that begins the text. The first has no
    log-probability. The session is empty or holds whatever; it holds all tokens but the last afterwards.

    Raises what Session raises."""
    model = session.model
    log = LogprobLog(model, 0)
    is_marked = tokens[0] == model.info.token_bos
    if not is_marked:
        log.add(tokens[0], None, [])
    session.set_prefix([])
    width = min(ROWS, session.max_rows)
    for begin in range(0, len(tokens) - 1, width):
        chunk = list(tokens[begin : min(begin + width, len(tokens) - 1)])
        tree = TokenTree(chunk[0])
        for depth, token in enumerate(chunk[1:]):
            tree.add(depth, token, 0.0)
        result = session.decode(tree, max(n_top, 1))
        for row in range(len(chunk)):
            top = zip(result.top_tokens[row, :n_top].tolist(), result.top_logprobs[row, :n_top].tolist(), strict=True)
            token = tokens[begin + row + 1]
            is_first = is_marked and begin + row == 0
            log.add(token, None if is_first else session.logprob(row, token), [] if is_first else list(top))
        session.commit(list(range(len(chunk))))
    return logprobs_of_completion(log.all())
