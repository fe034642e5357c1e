"""Distributions over the vocabulary, from logits."""

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural logarithms of the probabilities, float64, along the last axis."""
    shifted: np.ndarray = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64, along the last axis."""
    probabilities: np.ndarray = np.exp(log_softmax(logits))
    return probabilities


def entropy(logprobs: np.ndarray) -> np.ndarray:
    """In nats, along the last axis."""
    nats: np.ndarray = -(np.exp(logprobs) * np.maximum(logprobs, -1e4)).sum(axis=-1)  # 0 * -inf is 0 here
    return nats


def divergence(logprobs: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(p || q) in nats, along the last axis: what it costs to take q for p."""
    nats: np.ndarray = (np.exp(logprobs) * (np.maximum(logprobs, -1e4) - np.maximum(other, -1e4))).sum(axis=-1)
    return nats


def nucleus_size(probabilities: np.ndarray, mass: float) -> int:
    """How many of the most likely tokens have this much of the probability together."""
    reached = np.cumsum(np.sort(probabilities)[::-1])
    return min(int(np.searchsorted(reached, mass * reached[-1])) + 1, len(probabilities))


def nucleus(probabilities: np.ndarray, mass: float, limit: int) -> np.ndarray:
    """The most likely tokens that have this much of the probability together, most likely first; at most `limit`."""
    n = min(nucleus_size(probabilities, mass), limit)
    best = np.argpartition(-probabilities, n - 1)[:n]
    return best[np.lexsort((best, -probabilities[best]))]


def rank_of(values: np.ndarray, token: int) -> int:
    """How many tokens stand before this one, by value and then by id: 0 for the best."""
    value = values[token]
    return int((values > value).sum() + (values[:token] == value).sum())
