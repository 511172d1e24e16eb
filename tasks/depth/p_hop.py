"""p-hop induction (Sanford, Hsu & Telgarsky 2024, arXiv 2402.09268, section 4): follow the induction-head pointer k times.

For letters X_1..X_N, find(i) = the largest j <= i with X_{j-1} = X_i (the letter after the last earlier occurrence of the present one), and
hop_k(i) = X at find applied k times. A transformer needs depth of about log2 k, a recurrent model much more: k is the difficulty.
"""

from typing import Any

import numpy as np

from resbench.tasks.depth.generated import IGNORED, Examples, GeneratedTask, Ints


class PHop(GeneratedTask):
    """p-hop induction: the first token says k, then at every letter the answer is the letter k induction hops back.

    Tokens 0..alphabet-1 are letters, drawn uniformly; alphabet-1+k asks for k hops. Every position whose hops stay inside the sequence is scored.
    Chance is 1 / alphabet: letters are independent and uniform, so without following the pointer every letter is equally likely. Difficulty is k.

    Args:
        hops: the numbers of hops to mix, each equally often.
        alphabet: number of letters.

    Raises ValueError for hops that are not positive, or fewer than two letters.
    """

    name = "p-hop"
    difficulty_name = "hops"

    def __init__(self, hops: list[int] = [1, 2, 4, 8], alphabet: int = 4, **kwargs: Any) -> None:  # noqa: B006
        super().__init__(**kwargs)
        if not hops or min(hops) < 1:
            raise ValueError(f"data.init_args.hops={hops}: expected numbers of hops, at least 1 each")
        self.require({"alphabet": (alphabet, 2)})
        self.hops, self.alphabet = sorted(set(hops)), alphabet
        self.vocab_size = alphabet + self.hops[-1]

    @property
    def chance(self) -> float:
        return 1 / self.alphabet

    def settings(self) -> dict[str, Any]:
        return {"hops": self.hops, "alphabet": self.alphabet}

    def generate(self, rng: np.random.Generator, count: int) -> Examples:
        letters = rng.integers(self.alphabet, size=(count, self.context_length - 1))
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
