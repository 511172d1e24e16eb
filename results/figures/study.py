"""All figures of a study, in the order in which a page shows them."""

from __future__ import annotations

import pandas as pd

from resbench.results.figures import accuracy, difference_compute, gain_training, learning_rate, pareto, sinkhorn
from resbench.results.figures.comparison import difference_to_reference
from resbench.results.figures.cost import throughput_and_memory
from resbench.results.figures.drawing import Drawing
from resbench.results.figures.gain import gain_through_depth
from resbench.results.figures.loss import loss_against_compute, loss_against_tokens, loss_against_wall_clock
from resbench.results.figures.numbers import cost_numbers, curve_numbers, difference_numbers, gain_numbers
from resbench.results.figures.style import styles
from resbench.results.leaderboard import Leaderboard

NAMES = (
    "difference", "loss_tokens", "loss_compute", "loss_wall_clock", pareto.NAME, "gain_depth", gain_training.NAME, sinkhorn.NAME, "cost",
)  # fmt: skip
"""Names of the figures every study has, drawn or not."""

SOMETIMES = (accuracy.NAME, difference_compute.NAME, learning_rate.NAME)
"""Names of figures that only some studies have."""


def draw_study(
    leaderboard: Leaderboard, curves: pd.DataFrame, profiles: pd.DataFrame, accuracies: pd.DataFrame | None = None
) -> list[Drawing]:
    """Every figure of a leaderboard, drawn or with the reason why not.

    Args:
        leaderboard: of `make_leaderboard`.
        curves: of `load_curves` for the leaderboard's runs and `numbers.METRICS`.
        profiles: of `load_profiles` for the same runs.
        accuracies: of `load_accuracies` for them; without any there is no figure of them.
    """
    chosen = styles((cell.label, cell.scheme) for cell in leaderboard.cells)
    over_training = curve_numbers(leaderboard, curves)
    graded = [] if accuracies is None or accuracies.empty else [accuracy.accuracy_numbers(leaderboard.runs, accuracies)]
    rates = learning_rate.learning_rate_numbers(leaderboard)
    ladder = difference_compute.difference_compute_numbers(leaderboard)
    return [
        *(accuracy.accuracy_over_difficulty(numbers, chosen) for numbers in graded),
        difference_to_reference(difference_numbers(leaderboard), chosen),
        *([difference_compute.difference_over_compute(ladder, chosen)] if len(ladder) else []),
        *([learning_rate.loss_against_learning_rate(rates, chosen)] if len(rates) else []),
        loss_against_tokens(over_training, chosen),
        loss_against_compute(over_training, chosen),
        loss_against_wall_clock(over_training, chosen),
        pareto.loss_and_cost(pareto.pareto_numbers(leaderboard), chosen),
        gain_through_depth(gain_numbers(leaderboard, profiles), chosen),
        gain_training.gain_over_training(gain_training.gain_training_numbers(leaderboard, curves), chosen),
        sinkhorn.error_against_budget(sinkhorn.sinkhorn_numbers(leaderboard)),
        throughput_and_memory(cost_numbers(leaderboard), chosen),
    ]
