"""p-hop induction (Sanford, Hsu & Telgarsky 2024, arXiv 2402.09268, section 4): follow the induction-head pointer k times.

For letters X_1..X_N, find(i) = the largest j <= i with X_{j-1} = X_i (the letter after the last earlier occurrence of the present one), and
hop_k(i) = X at find applied k times. A transformer needs depth of about log2 k, a recurrent model much more: k is the difficulty.
"""

from functools import cached_property
from typing import Any

import numpy as np

from resbench.tasks.depth.generated import IGNORED, Examples, GeneratedTask, Ints


class PHop(GeneratedTask):
    """p-hop induction: the first token says k, then at every letter the answer is the letter k induction hops back.

    Tokens 0..alphabet-1 are letters, no letter twice in a row and otherwise uniform: a repeated letter would point to itself, and a pointer that
    stays where it is makes many hops as easy as few. Token alphabet-1+k asks for k hops. Every position whose hops stay inside the sequence is
    scored. Difficulty is k. Chance is the best guess from k and the present letter alone, measured on simulated sequences: two hops come back to
    the letter one started from more often than once in the alphabet. What a shallow network makes of the last few letters is above that.

    Args:
        hops: the numbers of hops to mix, each equally often.
        alphabet: number of letters (4 in the paper, whose letters may repeat).

    Raises ValueError for hops that are not positive, or fewer than three letters.
    """

    name = "p-hop"
    difficulty_name = "hops"

    def __init__(self, hops: list[int] = [1, 2, 4, 8], alphabet: int = 8, **kwargs: Any) -> None:  # noqa: B006
        super().__init__(**kwargs)
        if not hops or min(hops) < 1:
            raise ValueError(f"data.init_args.hops={hops}: expected numbers of hops, at least 1 each")
        self.require({"alphabet": (alphabet, 3)})
        self.hops, self.alphabet = sorted(set(hops)), alphabet
        self.vocab_size = alphabet + self.hops[-1]

    @cached_property
    def chance(self) -> float:
        found = self.simulated()
        scored = found.targets != IGNORED
        right = 0.0
        for k in self.hops:
            chosen = scored & (found.difficulty == k)
            same = (found.tokens == found.targets)[chosen].sum()
            right += max(same, (chosen.sum() - same) / (self.alphabet - 1))
        return float(right / scored.sum())

    def settings(self) -> dict[str, Any]:
        return {"hops": self.hops, "alphabet": self.alphabet}

    def generate(self, rng: np.random.Generator, count: int) -> Examples:
        steps = rng.integers(1, self.alphabet, size=(count, self.context_length - 1))
        steps[:, 0] = rng.integers(self.alphabet, size=count)
        letters = np.cumsum(steps, axis=1) % self.alphabet
        hops = rng.choice(self.hops, size=count)
        answers = hop(letters, hops, self.alphabet)
        first = np.full((count, 1), IGNORED)
        difficulty = np.broadcast_to(hops[:, None], (count, self.context_length)).astype(np.int64)
        tokens = np.concatenate([(self.alphabet - 1 + hops)[:, None], letters], axis=1)
        return Examples(tokens, np.concatenate([first, answers], axis=1), difficulty)


def hop(letters: Ints, hops: Ints, alphabet: int) -> Ints:
    """hop_k at every position: letters [N, L], hops [N] -> letters [N, L], -100 where the pointer leaves the sequence."""
    count, length = letters.shape
    rows = np.arange(count)
    pointer = np.full((count, length), -1, dtype=np.int64)
    last = np.full(
        (count, alphabet), -2, dtype=np.int64
    )  # position of each letter's last occurrence; -2 + 1 = -1: none
    for i in range(length):
        pointer[:, i] = last[rows, letters[:, i]] + 1
        last[rows, letters[:, i]] = i
    at = np.broadcast_to(np.arange(length), (count, length)).copy()
    for step in range(int(hops.max(initial=0))):
        moved = np.where(at >= 0, np.take_along_axis(pointer, np.maximum(at, 0), axis=1), -1)
        at = np.where((step < hops)[:, None], moved, at)
    return np.where(at >= 0, np.take_along_axis(letters, np.maximum(at, 0), axis=1), IGNORED)
