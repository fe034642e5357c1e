"""The training data: a byte-level BPE vocabulary learned from the standard library, and batches of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stdlib_text import is_validation, standard_library_files

VOCAB_SIZE = 4096
END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0


@dataclass
class Corpus:
    tokenizer: Tokenizer
    train_files: list[np.ndarray]
    validation_files: list[np.ndarray]
    validation_bytes: int


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE or tokenizer.token_to_id(END_OF_TEXT) != END_OF_TEXT_ID:
        raise RuntimeError("the corpus did not give the expected vocabulary")
    return tokenizer


def load_corpus(work_dir: Path) -> Corpus:
    """Tokenise the standard library; the learned vocabulary is kept in work_dir/tokenizer.json."""
    sources = standard_library_files()
    train = [text for name, text in sources.items() if not is_validation(name)]
    validation = [text for name, text in sources.items() if is_validation(name)]

    saved = work_dir / "tokenizer.json"
    if saved.exists():
        tokenizer = Tokenizer.from_file(str(saved))
    else:
        tokenizer = train_tokenizer(train)
        tokenizer.save(str(saved))

    def encode(texts: list[str]) -> list[np.ndarray]:
        # Source text that spells the separator out stays plain text.
        plain = [text.replace(END_OF_TEXT, "") for text in texts]
        return [
            np.array([END_OF_TEXT_ID, *encoding.ids], dtype=np.uint16) for encoding in tokenizer.encode_batch(plain)
        ]

    return Corpus(tokenizer, encode(train), encode(validation), sum(len(text.encode()) for text in validation))


class Batches:
    """Endless batches: each epoch shuffles the files, joins them, and shuffles the windows cut from the stream."""

    def __init__(self, files: list[np.ndarray], length: int, tokens_per_batch: int, seed: int):
        self.files = files
        self.length = length
        self.rows = tokens_per_batch // length
        self.seed = seed
        self.epoch = -1
        self.windows = np.empty((0, length + 1), dtype=np.uint16)
        self.position = 0

    def _next_epoch(self) -> None:
        self.epoch += 1
        rng = np.random.default_rng([self.seed, self.length, self.epoch])
        order = rng.permutation(len(self.files))
        stream = np.concatenate([self.files[index] for index in order])
        starts = np.arange(rng.integers(self.length), len(stream) - self.length - 1, self.length)
        rng.shuffle(starts)
        self.windows = np.stack([stream[start : start + self.length + 1] for start in starts])
        self.position = 0

    def skip_to(self, epoch: int, position: int) -> None:
        """Continue where an interrupted run stopped."""
        self.epoch = epoch - 1
        self._next_epoch()
        self.position = position

    def next(self) -> np.ndarray:
        if self.position + self.rows > len(self.windows):
            self._next_epoch()
        batch = self.windows[self.position : self.position + self.rows]
        self.position += self.rows
        return batch.astype(np.int64)


def validation_windows(files: list[np.ndarray], length: int) -> np.ndarray:
    """The held-out files joined and cut into windows whose targets never overlap."""
    stream = np.concatenate(files)
    count = (len(stream) - 1) // length
    return np.stack([stream[i * length : (i + 1) * length + 1] for i in range(count)]).astype(np.int64)
