"""Pictures of finished searches, by Optuna, kept with the sweep's parent run in MLflow under ``search/CELL/``.

- ``history.png``: loss of each trial and the best so far; trials above a constraint stand apart.
- ``slice.png``: loss against each searched key.
- ``importances.png``: share of each key in the differences of loss (PED-ANOVA); only with two keys or more, as the share of one is always 1.
- ``intermediate.png``: losses of each trial along its steps, where a pruner watched them.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import optuna
from optuna.trial import TrialState
from rich.console import Console

from resbench.sweeps.ledger import Ledger
from resbench.sweeps.search import CellSearch, above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANY_TRIALS = 30
"""Above it, a legend with a line per trial says nothing."""


_WORDS = {
    "history": "loss of each trial and the best so far",
    "slice": "loss against each searched key",
    "importances": "share of each key in the differences of loss",
    "intermediate": "each trial's losses, as its pruner saw them",
}


def log_search_figures(ledger: Ledger, searches: Mapping[str, CellSearch], console: Console) -> None:
    """Draw every search that is complete. What cannot be drawn or stored is said and does no harm: the results are there already."""
    for cell, search in searches.items():
        try:
            if search.complete() and not ledger.has_figures(f"search/{cell}"):
                for name, figure in draw(search.study, cell, search.step).items():
                    ledger.log_figure(figure, f"search/{cell}/{name}.png")
        except Exception as error:
            console.print(f"no figures of the search of {cell}: {error}", style="yellow", highlight=False, markup=False)


def draw(study: optuna.Study, title: str, step: str) -> dict[str, "Figure"]:
    """Figures of a study by name; those that its trials allow. ``step``: what a step of the pruner is, in words."""
    from optuna.visualization import matplotlib as plots

    trials = study.get_trials(deepcopy=False)
    told = [trial for trial in trials if trial.state is TrialState.COMPLETE and math.isfinite(trial.value or math.nan)]
    keys = sorted({key for trial in told for key in trial.params})
    wanted: dict[str, Callable[[], object]] = {}
    if told:
        wanted["history"] = lambda: plots.plot_optimization_history(study, target_name="loss")
        wanted["slice"] = lambda: plots.plot_slice(study, target_name="loss")
    if len(told) > 1 and len(keys) > 1:
        wanted["importances"] = lambda: plots.plot_param_importances(study, target_name="loss")
    if sum(len(trial.intermediate_values) > 1 for trial in trials) > 1:
        wanted["intermediate"] = lambda: plots.plot_intermediate_values(study)
    grey = "; grey: above a constraint" if any(above(trial) for trial in trials) else ""
    found = {}
    for name, plot in wanted.items():
        with _plotting() as figures:
            plot()
            figure = figures()
        _tidy(figure, name, f"{title}: {_WORDS[name]}{grey if name != 'importances' else ''}", step, len(trials))
        found[name] = figure
    return found


@contextmanager
def _plotting() -> Iterator[Callable[[], "Figure"]]:
    """Optuna plots into pyplot's current figure, in a style that it sets for the whole process: neither outlives this."""
    import matplotlib.pyplot as plt

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # that diverged trials are not drawn needs no line for each plot
    with plt.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        plt.switch_backend("Agg")
        try:
            yield plt.gcf
        finally:
            plt.close("all")
            optuna.logging.set_verbosity(verbosity)


def _tidy(figure: "Figure", name: str, title: str, step: str, trials: int) -> None:
    first = figure.axes[0]
    legend = first.get_legend()
    if legend is not None and (name == "importances" or (name == "intermediate" and trials > MANY_TRIALS)):
        legend.remove()
    if name == "intermediate":
        first.set(xlabel=step, ylabel="loss")
    for axes in figure.axes:
        axes.set_title("")
        axes.set_title("", loc="left")
    if name == "slice":  # the colour bar takes part in no layout
        figure.set_size_inches(max(6.4, 3.2 * len(figure.axes)), 4.4)
    else:
        figure.set_layout_engine("tight")
    figure.suptitle(title, fontsize=9)
