"""The warm-up-stable-decay learning-rate schedule, as a factor on the peak rate.

Linear from zero over the warm-up, constant, then linear to ``final`` over the decay. Unlike a cosine, its trunk does not depend on the budget,
so that runs of several budgets share it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupStableDecay:
    """Factor on the peak learning rate for each of ``steps`` optimizer steps.

    Parameters
    ----------
    steps: optimizer steps of the whole run.
    warmup, decay: fractions of the run.
    final: the factor the decay ends at, one step after the last.
    """

    steps: int
    warmup: float
    decay: float
    final: float = 0.0

    def __call__(self, step: int) -> float:
        """The factor for step 0, 1, ...; a resumed optimizer asks for one step more than there are."""
        warmup_steps = round(self.warmup * self.steps)
        decay_steps = round(self.decay * self.steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        remaining = max(self.steps - step, 0)
        if remaining < decay_steps:
            return self.final + (1.0 - self.final) * remaining / decay_steps
        return 1.0
