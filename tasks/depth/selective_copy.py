"""Selective copying, as in MAD (Poli et al. 2024, arXiv 2403.17844): repeat the letters of a sequence in order and skip the blanks between them."""

from typing import Any

import numpy as np

from resbench.tasks.depth.generated import IGNORED, Examples, GeneratedTask


class SelectiveCopy(GeneratedTask):
    """Letters strewn among blanks, then as many prompts as there were letters: the answer to the i-th prompt is the i-th letter.

    Token 0 is the blank, 1 the prompt, letters follow and are uniform and independent: chance is 1 / letters. The sequence's end is the last
    prompt. Difficulty is the number of letters to copy.

    Args:
        copies: numbers of letters to mix, each equally often.
        letters: size of the alphabet (MAD's vocabulary of 16 has 14).

    Raises ValueError when letters and prompts do not fit the sequence.
    """

    name = "selective-copy"
    difficulty_name = "copies"

    def __init__(self, copies: list[int] = [4, 8, 16], letters: int = 14, **kwargs: Any) -> None:  # noqa: B006
        super().__init__(**kwargs)
        if not copies or min(copies) < 1:
            raise ValueError(f"data.init_args.copies={copies}: expected numbers of letters, at least 1 each")
        self.require({"letters": (letters, 2)})
        if 2 * max(copies) > self.context_length:
            raise ValueError(
                f"data.init_args.copies: {max(copies)} letters and as many prompts need {2 * max(copies)} tokens; "
                f"data.init_args.context_length={self.context_length} is shorter"
            )
        self.copies, self.letters = sorted(set(copies)), letters
        self.vocab_size = letters + 2

    @property
    def chance(self) -> float:
        return 1 / self.letters

    def settings(self) -> dict[str, Any]:
        return {"copies": self.copies, "letters": self.letters}

    def generate(self, rng: np.random.Generator, count: int) -> Examples:
        length = self.context_length
        copies = rng.choice(self.copies, size=count)
        letters = 2 + rng.integers(self.letters, size=(count, self.copies[-1]))
        tokens = np.zeros((count, length), dtype=np.int64)
        targets = np.full((count, length), IGNORED)
        for n in np.unique(copies).tolist():
            rows = np.flatnonzero(copies == n)
            places = np.sort(np.argsort(rng.random((len(rows), length - n)), axis=1)[:, :n], axis=1)
            tokens[rows[:, None], places] = letters[rows, :n]
            tokens[rows, length - n :] = 1
            targets[rows, length - n :] = letters[rows, :n]
        return Examples(tokens, targets, np.broadcast_to(copies[:, None], tokens.shape).astype(np.int64))
