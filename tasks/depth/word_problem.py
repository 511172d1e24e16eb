"""The word problem of a permutation group: after each group element, name the product of all so far.

For S5 and A5, which are not solvable, this is complete for NC^1 (Barrington 1989): no network of constant depth solves all lengths unless
TC^0 = NC^1, and log2 T layers suffice (Liu et al. 2023, arXiv 2210.10749; Merrill, Petty & Sabharwal 2024, arXiv 2404.08819).
"""

from functools import cache
from itertools import permutations
from typing import Any, Literal

import numpy as np

from resbench.tasks.depth.generated import Examples, GeneratedTask, Ints, octave

Group = Literal["S5", "A5"]


class WordProblem(GeneratedTask):
    """State tracking: token t is a group element, its target the product of elements 1..t (element t applied last).

    Elements are uniform, so every product is uniform and independent of all tokens but jointly: chance is 1 / order (1/120 for S5, 1/60 for A5).
    Difficulty is the length of the product, in octaves (16 means 9 to 16 elements).

    Args:
        group: S5 (all permutations of five) or A5 (the even ones).
    """

    name = "word-problem"
    difficulty_name = "length"

    def __init__(self, group: Group = "S5", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if group not in ("S5", "A5"):
            raise ValueError(f"data.init_args.group={group!r}: expected S5 or A5")
        self.group: Group = group
        self.vocab_size = len(multiplication_table(group))

    @property
    def chance(self) -> float:
        return 1 / self.vocab_size

    def settings(self) -> dict[str, Any]:
        return {"group": self.group}

    def generate(self, rng: np.random.Generator, count: int) -> Examples:
        tokens = rng.integers(self.vocab_size, size=(count, self.context_length))
        table = multiplication_table(self.group)
        products = tokens.copy()
        for t in range(1, self.context_length):
            products[:, t] = table[tokens[:, t], products[:, t - 1]]
        lengths = octave(np.arange(1, self.context_length + 1))
        return Examples(tokens, products, np.broadcast_to(lengths, tokens.shape).astype(np.int64))


@cache
def elements(group: Group) -> Ints:
    """The group's permutations [order, 5] in lexicographic order; the identity comes first."""
    everything = np.array(list(permutations(range(5))), dtype=np.int64)
    return everything if group == "S5" else everything[[_is_even(p) for p in everything]]


@cache
def multiplication_table(group: Group) -> Ints:
    """table[a, b] is the element "b, then a": x -> a(b(x)); [order, order]."""
    members = elements(group)
    products = members[:, members]  # [a, b, x] -> a[b[x]]
    code = 5 ** np.arange(5)
    index = np.full(5**5, -1, dtype=np.int64)
    index[members @ code] = np.arange(len(members))
    return index[products @ code]


def _is_even(permutation: Ints) -> bool:
    inversions = sum(permutation[i] > permutation[j] for i in range(5) for j in range(i + 1, 5))
    return inversions % 2 == 0
