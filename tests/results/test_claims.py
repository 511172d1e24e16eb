"""What runs say to the papers' claims: the truth of simulated runs is found, and nothing is found where there is none."""

import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import resbench.results.published
from resbench.harness import names
from resbench.harness.cli import main
from resbench.results.claims import cli
from resbench.results.claims.catalogue import CLAIMS, Claim, Variant
from resbench.results.claims.evidence import Evidence, Verdict, evidence
from resbench.results.claims.report import to_json, to_markdown
from resbench.results.runs import COLUMNS

RESNET, MHC, HC = Variant("resnet"), Variant("mhc", 4), Variant("hc", 4)
BELOW = Claim("mhc is better", "a paper", "−0.02", "below", MHC, RESNET)
EQUAL = Claim("mhc is as good", "a paper", "0", "equal", MHC, RESNET)


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Final complete runs of one study, with the columns of `load_runs`."""
    full = []
    for number, row in enumerate(rows):
        scheme, n = row["scheme"], row.get("n_streams", 4 if row["scheme"] in ("mhc", "hc") else None)
        full.append(
            {
                "run_id": f"run-{number}",
                "started": pd.Timestamp(number, unit="s", tz="UTC"),
                "study": "study",
                "phase": "final",
                "outcome": "complete",
                "task": "text",
                "size": "1m",
                "budget_tokens": 1000,
                "cell": f"size={row.get('size', '1m')},scheme={row.get('label', scheme)},scheme.n_streams={n}",
                "n_streams": n,
                "val_loss": 1.0,
                **{key: value for key, value in row.items() if key != "label"},
            }
        )
    found = pd.DataFrame(full, columns=[column.name for column in COLUMNS])
    return found.astype({"n_streams": "Int64", "budget_tokens": "Int64", "seed": "Int64", "val_loss": "float64"})


def losses(difference: float, noise: float, seeds: int = 8) -> pd.DataFrame:
    """mhc differs from resnet by that much, and each pair by chance as well; seeds differ by far more."""
    chance = random.Random(0)
    rows = []
    for seed in range(seeds):
        luck = chance.gauss(0, 0.5)
        rows.append({"scheme": "resnet", "seed": seed, "val_loss": 2 + luck})
        rows.append({"scheme": "mhc", "seed": seed, "val_loss": 2 + luck + difference + chance.gauss(0, noise)})
    return table(rows)


def judged(runs: pd.DataFrame, claim: Claim, gains: dict[str, float] | None = None) -> Evidence:
    points = [(run, names.GAIN_FORWARD, 0, gain) for run, gain in (gains or {}).items()]
    (found,) = evidence(runs, pd.DataFrame(points, columns=["run_id", "metric", "tokens", "value"]), [claim])
    return found


@pytest.mark.parametrize(
    ("difference", "noise", "below", "equal"),
    [
        (-0.03, 0.002, "agrees", "disagrees"),
        (+0.03, 0.002, "disagrees", "disagrees"),
        (0.0, 0.002, "undecided", "agrees"),
        (0.0, 0.2, "undecided", "undecided"),
    ],
)
def test_a_difference_and_its_absence_are_found(
    difference: float, noise: float, below: Verdict, equal: Verdict
) -> None:
    runs = losses(difference, noise)
    found = judged(runs, BELOW)
    assert found.verdict == below
    assert judged(runs, EQUAL).verdict == equal
    assert found.estimate is not None
    assert found.estimate.low is not None
    assert found.estimate.high is not None
    assert found.estimate.low <= difference <= found.estimate.high


def test_one_pair_decides_nothing() -> None:
    assert judged(losses(-0.5, 0.0, seeds=1), BELOW).verdict == "undecided"


def test_pairs_stay_within_a_group_and_a_seed() -> None:
    runs = table(
        [
            {"scheme": "resnet", "seed": 0, "val_loss": 3.0},
            {"scheme": "mhc", "seed": 1, "val_loss": 1.0},  # another seed
            {"scheme": "mhc", "seed": 0, "val_loss": 1.0, "size": "3m"},  # another size
            {"scheme": "resnet", "seed": 2, "val_loss": 2.0},
            {"scheme": "mhc", "seed": 2, "val_loss": 1.9},
            {"scheme": "resnet", "seed": 3, "val_loss": 2.0},
            {"scheme": "mhc", "seed": 3, "outcome": "diverged", "val_loss": 9.0},
        ]
    )
    found = judged(runs, BELOW)
    assert found.estimate is not None
    assert found.estimate.n == 1
    assert found.estimate.mean == pytest.approx(-0.1)


def test_several_groups_count_alike_whatever_their_seeds() -> None:
    """Differences of -0.1 with one seed, -0.2 with one and -0.6 with four: a mean of -0.3 over groups, not of -0.45 over pairs."""
    rows = [
        {"scheme": scheme, "seed": seed, "size": size, "val_loss": 2.0 + (gain if scheme == "mhc" else 0.0)}
        for size, gain, seeds in (("400k", -0.1, 1), ("1m", -0.2, 1), ("3m", -0.6, 4))
        for seed in range(seeds)
        for scheme in ("mhc", "resnet")
    ]
    found = judged(table(rows), BELOW)
    assert (found.pairs, found.groups) == (6, 3)
    assert found.estimate is not None
    assert found.estimate.n == 3
    assert found.estimate.mean == pytest.approx(-0.3)


def test_variants_that_cannot_be_told_apart_make_no_pair() -> None:
    both = [{"scheme": "mhc", "label": label, "seed": 0, "val_loss": 1.0} for label in ("mhc", "mhc tuned")]
    assert judged(table([{"scheme": "resnet", "seed": 0}, *both]), BELOW).verdict == "not tested"


def test_streams_and_labels_choose_runs() -> None:
    rows = [{"scheme": "mhc", "n_streams": n, "seed": 0, "val_loss": 2 - n / 10} for n in (2, 4, 8)]
    rows += [{"scheme": "wide", "label": f"wide {of}", "seed": 0, "val_loss": 2.0} for of in ("params", "flops")]
    runs = table(rows)
    eight = judged(runs, Claim("", "", "", "below", Variant("mhc", 8), MHC)).estimate
    wide = judged(runs, Claim("", "", "", "below", MHC, Variant("wide", not_labelled="flops"))).estimate
    assert eight is not None
    assert eight.mean == pytest.approx(-0.4)
    assert wide is not None
    assert wide.mean == pytest.approx(-0.4)


def test_gains_are_compared_by_their_factor() -> None:
    runs = table([{"scheme": scheme, "seed": seed} for seed in range(4) for scheme in ("hc", "mhc")])
    peaks = {row.run_id: (10 + row.seed if row.scheme == "hc" else 1.25) for row in runs.itertuples()}
    found = judged(runs, Claim("", "", "", "gain above", HC, MHC), peaks)
    assert found.verdict == "agrees"
    assert found.estimate is not None
    assert found.estimate.mean == pytest.approx((10 * 11 * 12 * 13) ** 0.25 / 1.25)
    assert judged(runs, Claim("", "", "", "gain at most", MHC, bound=2.0), peaks).verdict == "agrees"
    assert judged(runs, Claim("", "", "", "gain at most", HC, bound=2.0), peaks).verdict == "disagrees"


@pytest.mark.parametrize(("diverged", "verdict"), [(8, "agrees"), (1, "undecided")])
def test_divergence_is_counted(diverged: int, verdict: Verdict) -> None:
    rows: list[dict[str, Any]] = [{"scheme": "mhc", "seed": seed} for seed in range(8)]
    rows += [
        {"scheme": "hc", "seed": seed, "outcome": "diverged" if seed < diverged else "complete"} for seed in range(8)
    ]
    found = judged(table(rows), Claim("", "", "", "diverges more", HC, MHC))
    assert found.verdict == verdict
    assert found.text == f"{diverged} of 8 runs and 0 of 8"


def test_divergence_is_counted_where_both_were_trained() -> None:
    rows: list[dict[str, Any]] = [{"scheme": scheme, "seed": 0} for scheme in ("hc", "mhc")]
    deeper = [{"scheme": "hc", "seed": seed, "size": "deeper", "outcome": "diverged"} for seed in range(8)]
    assert judged(table(rows + deeper), Claim("", "", "", "diverges more", HC, MHC)).text == "0 of 1 runs and 0 of 1"


def test_the_pairs_that_agree_are_counted() -> None:
    """A mean of few pairs may be that of one of them."""
    rows = [
        {"scheme": scheme, "seed": seed, "val_loss": 2.0 + (gain if scheme == "mhc" else 0.0)}
        for seed, gain in enumerate((-0.5, 0.01, 0.01))
        for scheme in ("mhc", "resnet")
    ]
    assert judged(table(rows), BELOW).text.startswith("below in 1 of 3, ")


def test_many_claims_are_corrected_together() -> None:
    runs = losses(-0.02, 0.02, seeds=6)
    nothing = pd.DataFrame(columns=["run_id", "metric", "tokens", "value"])
    alone = evidence(runs, nothing, [BELOW])[0].p
    among = evidence(runs, nothing, [BELOW] * 5)[0].p
    assert alone is not None
    assert among == pytest.approx(min(1.0, 5 * alone))


def test_names_of_studies_are_not_markup() -> None:
    runs = losses(-0.03, 0.002).assign(study="a | <script>")
    rows = [judged(runs, BELOW)]
    assert "<script>" not in to_markdown(rows, "a | <script>")
    assert json.loads(to_json(rows, "x"))["claims"][0]["verdict"] == "agrees"


def test_the_command_on_published_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Path(resbench.results.published.__path__[0]) / "demo" / "runs.zip"
    assert main(["claims", "--from", str(files), "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert all(claim.statement in " ".join(told.split()) for claim in CLAIMS)
    records = json.loads((tmp_path / "claims.json").read_text())["claims"]
    assert {record["verdict"] for record in records} <= {"agrees", "disagrees", "undecided", "not tested"}
    with pytest.raises(ValueError, match="no study 'demi'"):
        cli.main(["--from", str(files), "--study", "demi"])
