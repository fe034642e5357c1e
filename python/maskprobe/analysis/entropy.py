"""How sure the model is of the next token, place by place along texts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..session import Session
from .distributions import entropy, log_softmax
from .sweeps import Text, sweep


def entropy_rows(
    session: Session, texts: Sequence[Text], progress: Callable[[float, float], None]
) -> list[dict[str, Any]]:
    """One row for each place: entropy of the next token's distribution in nats, the log-probability of the token that
    came and whether it was the best one."""
    rows = []
    for done, text in enumerate(texts):
        progress(done, len(texts))
        for part in sweep(session, text):
            logprobs = log_softmax(np.array([session.logits(row) for row in range(part.n_owners)]))
            spread = entropy(logprobs)
            for row, place in enumerate(part.places):
                came = text.tokens[place + 1]
                rows.append(
                    {
                        "task": text.task,
                        "text": text.name,
                        "place": place + 1,  # of the token that came
                        "after_prompt": place + 1 - text.n_prompt,
                        "token": int(came),
                        "entropy": float(spread[row]),
                        "logprob": float(logprobs[row, came]),
                        "is_best": bool(part.result.best[row] == came),
                    }
                )
    return rows


def by_range(rows: Sequence[dict[str, Any]], n_ranges: int = 8) -> list[dict[str, Any]]:
    """Means over ranges of places after the prompt, of about equal length."""
    last = max(row["after_prompt"] for row in rows)
    size = max(1, -(-(last + 1) // n_ranges))
    found = []
    for begin in range(0, last + 1, size):
        inside = [row for row in rows if begin <= row["after_prompt"] < begin + size]
        if inside:
            means = {key: float(np.mean([row[key] for row in inside])) for key in ("entropy", "logprob", "is_best")}
            quartiles = np.percentile([row["entropy"] for row in inside], [25, 50, 75]).tolist()
            last_place = min(begin + size - 1, last)
            found.append({"first": begin, "last": last_place, "n_places": len(inside), **means, "quartiles": quartiles})
    return found
