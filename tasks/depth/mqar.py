"""Multi-query associative recall (MQAR; Arora et al. 2023, "Zoology", arXiv 2312.04927).

Key-value pairs first, then the keys again in random order at random places: at each repeated key the answer is its value. Most later repeats
come early (a power law), as in language.
"""

from typing import Any

import numpy as np

from resbench.tasks.depth.generated import IGNORED, Examples, GeneratedTask


class AssociativeRecall(GeneratedTask):
    """MQAR: pairs ``k1 v1 k2 v2 ...``, then every key once more; its value is asked for there.

    Keys are 1..vocab/2 - 1, values the upper half of the vocabulary, both without repetition in a sequence; 0 fills the gaps. The best guess that has
    seen the values but associates nothing is right once in the number of pairs: chance is the mean of 1 / pairs over the numbers mixed, weighted by
    questions. Difficulty is the number of pairs.

    Args:
        pairs: numbers of pairs to mix, each equally often.
        vocabulary: tokens in all.
        power: how strongly questions crowd to the front; 0.01 in the paper, 1 spreads them evenly.

    Raises ValueError when the longest list of pairs and its questions do not fit the sequence or the vocabulary.
    """

    name = "mqar"
    difficulty_name = "pairs"

    def __init__(
        self,
        pairs: list[int] = [4, 8, 16],  # noqa: B006
        vocabulary: int = 8192,
        power: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not pairs or min(pairs) < 1:
            raise ValueError(f"data.init_args.pairs={pairs}: expected numbers of pairs, at least 1 each")
        self.pairs, self.vocab_size, self.power = sorted(set(pairs)), vocabulary, power
        most = self.pairs[-1]
        if 3 * most > self.context_length:
            raise ValueError(
                f"data.init_args.pairs: {most} pairs and their questions need {3 * most} tokens; "
                f"data.init_args.context_length={self.context_length} is shorter"
            )
        if vocabulary // 2 - 1 < most:
            raise ValueError(
                f"data.init_args.vocabulary={vocabulary}: expected at least {2 * (most + 1)} for {most} pairs"
            )
        if not 0 < power <= 1:
            raise ValueError(f"data.init_args.power={power}: expected a number above 0, at most 1")

    @property
    def chance(self) -> float:
        return len(self.pairs) / sum(self.pairs)  # sum(n * 1/n) / sum(n)

    def settings(self) -> dict[str, Any]:
        return {"pairs": self.pairs, "vocabulary": self.vocab_size, "power": self.power}

    def generate(self, rng: np.random.Generator, count: int) -> Examples:
        half, most, length = self.vocab_size // 2, self.pairs[-1], self.context_length
        pairs = rng.choice(self.pairs, size=count)
        keys = 1 + distinct(rng, count, most, half - 1)
        values = half + distinct(rng, count, most, self.vocab_size - half)
        tokens = np.zeros((count, length), dtype=np.int64)
        targets = np.full((count, length), IGNORED)
        for n in np.unique(pairs).tolist():  # the layout differs by the number of pairs only
            rows = np.flatnonzero(pairs == n)
            tokens[rows, 0 : 2 * n : 2], tokens[rows, 1 : 2 * n : 2] = keys[rows, :n], values[rows, :n]
            # Gumbel's trick: the n largest of log-weight + noise are a sample without replacement, in random order.
            gap = np.arange(1, length - 2 * n + 1)
            score = (self.power - 1) * np.log(gap) + rng.gumbel(size=(len(rows), len(gap)))
            places = 2 * n + np.argsort(-score, axis=1)[:, :n]
            asked = np.argsort(rng.random((len(rows), n)), axis=1)
            tokens[rows[:, None], places] = keys[rows[:, None], asked]
            targets[rows[:, None], places] = values[rows[:, None], asked]
        return Examples(tokens, targets, np.broadcast_to(pairs[:, None], tokens.shape).astype(np.int64))


def distinct(rng: np.random.Generator, count: int, n: int, below: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """[count, n] numbers in [0, below), no two equal in a row: Floyd's algorithm, all rows at once."""
    chosen = np.empty((count, n), dtype=np.int64)
    for i, top in enumerate(range(below - n, below)):
        candidate = rng.integers(top + 1, size=count)
        taken = (chosen[:, :i] == candidate[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, top, candidate)
    order = np.argsort(rng.random((count, n)), axis=1)
    return np.take_along_axis(chosen, order, axis=1)
