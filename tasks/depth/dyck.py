"""Dyck-(k, m): well-nested brackets of k kinds, never more than m deep (Hewitt et al. 2020, arXiv 2010.07515).

After a prefix, which bracket could be closed now? Its kind is that of the innermost open one. Two layers suffice with memory for m brackets
(Yao et al. 2021, arXiv 2105.11115); nesting depth is the difficulty.
"""

from typing import Any

import numpy as np

from resbench.tasks.depth.generated import IGNORED, Examples, GeneratedTask


class Dyck(GeneratedTask):
    """Bracket matching: after each closing bracket inside another pair, name the kind of the pair one is now in.

    Token 2j opens and 2j + 1 closes kind j. At every step a bracket opens or closes with equal probability, where both are possible; kinds are
    uniform. Scored are positions after a closing bracket with a bracket still open: after an opening one the answer would be that token. The answer
    is the closing token (2j + 1), independent of all that lies between, so chance is 1 / kinds. Difficulty is the number of open brackets.

    Args:
        kinds: k, kinds of brackets.
        max_depth: m, the most brackets open at once.
    """

    name = "dyck"
    difficulty_name = "nesting"

    def __init__(self, kinds: int = 8, max_depth: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.require({"kinds": (kinds, 2), "max_depth": (max_depth, 2)})
        self.kinds, self.max_depth = kinds, max_depth
        self.vocab_size = 2 * kinds

    @property
    def chance(self) -> float:
        return 1 / self.kinds

    def settings(self) -> dict[str, Any]:
        return {"kinds": self.kinds, "max_depth": self.max_depth}

    def generate(self, rng: np.random.Generator, count: int) -> Examples:
        length, rows = self.context_length, np.arange(count)
        opens = rng.random((count, length)) < 0.5
        kinds = rng.integers(self.kinds, size=(count, length))
        stack = np.zeros((count, self.max_depth + 1), dtype=np.int64)  # row d: kind of the d-th open bracket, from 1
        depth = np.zeros(count, dtype=np.int64)
        tokens = np.empty((count, length), dtype=np.int64)
        targets = np.full((count, length), IGNORED)
        depths = np.empty((count, length), dtype=np.int64)
        for t in range(length):
            opening = (opens[:, t] | (depth == 0)) & (depth < self.max_depth)
            closed = stack[rows, depth]
            depth += np.where(opening, 1, -1)
            stack[rows[opening], depth[opening]] = kinds[opening, t]
            tokens[:, t] = np.where(opening, 2 * kinds[:, t], 2 * closed + 1)
            scored = ~opening & (depth > 0)
            targets[scored, t] = 2 * stack[rows, depth][scored] + 1
            depths[:, t] = depth
        return Examples(tokens, targets, depths)
