"""Mixing, streams and attention against values worked out by hand, and all of it together on real networks."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness_support import history, run_of

from resbench.harness import names
from resbench.harness.config import parse
from resbench.harness.fit import fit
from resbench.harness.gain import measure
from resbench.harness.mixing import MIXING, entropy, mixing
from resbench.harness.stream_statistics import read_write_statistics, stream_statistics
from resbench.harness.structure import Structure, observe

Argv = Callable[..., list[str]]


def of(*rows: list[float]) -> dict[str, float]:
    """The measures of one matrix."""
    found = mixing(torch.tensor(rows, dtype=torch.float64).view(1, 1, len(rows), len(rows)))
    assert set(found) == set(MIXING)
    return {name: values[0] for name, values in found.items()}


def test_complete_mixing() -> None:
    found = of([0.5, 0.5], [0.5, 0.5])
    assert found["logit_range"] == 0
    assert found["entropy"] == pytest.approx(math.log(2))
    assert found["effective_rank"] == pytest.approx(1.0)  # singular values 1 and 0
    assert found["distance_to_uniform"] == pytest.approx(0.0)
    assert found["distance_to_identity"] == pytest.approx(1.0)  # four entries of 1/2


def test_no_mixing() -> None:
    found = of([1.0, 0.0], [0.0, 1.0])
    assert found["logit_range"] == pytest.approx(math.log(1e12))
    assert found["entropy"] == pytest.approx(0.0)
    assert found["effective_rank"] == pytest.approx(2.0)
    assert found["distance_to_identity"] == 0
    assert found["distance_to_uniform"] == pytest.approx(1.0)


def test_in_between() -> None:
    # Rows (3/4, 1/4): logits ln 3 apart; symmetric with eigenvalues 1 and 1/2, which are its singular values.
    found = of([0.75, 0.25], [0.25, 0.75])
    assert found["logit_range"] == pytest.approx(math.log(3))
    assert found["entropy"] == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    weights = (2 / 3, 1 / 3)
    assert found["effective_rank"] == pytest.approx(math.exp(-sum(w * math.log(w) for w in weights)))
    assert found["distance_to_identity"] == pytest.approx(0.5)
    assert measure(torch.tensor([[0.75, 0.25], [0.25, 0.75]])).second_eigenvalue == pytest.approx(0.5)


def test_the_second_eigenvalue_of_a_rotation_has_its_magnitude() -> None:
    assert measure(torch.tensor([[0.0, -2.0], [2.0, 0.0]])).second_eigenvalue == pytest.approx(2.0)  # +-2i
    assert measure(torch.tensor([[3.0]])).second_eigenvalue == 0.0


def test_what_overflowed_raises_nothing() -> None:
    found = of([math.inf, 0.0], [0.0, 1.0])
    assert math.isnan(found["effective_rank"])


def test_streams_by_hand() -> None:
    # Three streams (1, 0), (0, 2), (3, 0): cosines 0, 1, 0; root mean squares over two channels 1, 2, 3 over root two.
    cosine, smallest, largest = stream_statistics(torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])).tolist()
    assert cosine == pytest.approx(1 / 3)
    assert smallest == pytest.approx(1 / math.sqrt(2))
    assert largest == pytest.approx(3 / math.sqrt(2))
    copies = stream_statistics(torch.randn(5, 1, 8).expand(5, 4, 8))
    assert copies[0].item() == pytest.approx(1.0, abs=1e-5)
    assert stream_statistics(torch.randn(5, 1, 8))[0].isnan()  # no pairs


def test_read_and_write_entropy() -> None:
    read, write = read_write_statistics(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, -7.0]])).tolist()
    assert read == pytest.approx(math.log(2))
    assert write == 0.0
    assert entropy(torch.zeros(3)).item() == 0.0


@pytest.mark.parametrize("scheme", ["resnet", "mhc", "hc", "identity-hc"])
def test_a_network_from_inside(argv: Argv, scheme: str) -> None:
    network = parse(argv(f"--model.scheme={scheme}", "--model.backbone.depth=2")).model.build(257, 32)
    tokens = torch.randint(0, 257, (2, 32))
    with torch.no_grad():
        found = observe(network, [tokens])
    assert found is not None
    columns = found.as_dict()
    assert {len(values) for values in columns.values()} == {4}
    assert columns["max_attention_logit"][1] is None  # an MLP
    assert columns["max_attention_logit"][0] <= 16**0.5 * (1 + 1e-5)  # heads of 16, queries and keys of length sqrt(16)
    assert ("cosine" in columns) == ("read_entropy" in columns) == ("entropy" in columns) == (scheme != "resnet")
    if scheme != "resnet":
        assert columns["cosine"][0] == pytest.approx(1.0)  # all streams start as the embedding
        assert columns["norm_min"][0] == pytest.approx(columns["norm_max"][0])
    metrics = found.metrics()
    assert metrics["stability/max_attention_logit"] == max(columns["max_attention_logit"][0::2])
    assert metrics["stability/gain_forward"] == pytest.approx(1.0, abs=0.01)


def test_the_largest_attention_logit_is_of_what_a_token_sees(argv: Argv) -> None:
    network = parse(argv()).model.build(257, 32)
    attention = network.branches[0].inner
    x = torch.randn(3, 5, 32)
    query, key, _ = attention.heads(x)
    logits = [
        q @ k / 4.0 for b in range(3) for h in range(2) for t, q in enumerate(query[b, h]) for k in key[b, h, : t + 1]
    ]
    assert attention.max_logit(x).item() == pytest.approx(max(logits).item())


def test_the_largest_attention_logit_stays_within_documents(argv: Argv) -> None:
    network = parse(argv("--model.backbone.depth=1")).model.build(257, 32)
    tokens = torch.arange(32)[None]
    documents = tokens // 4
    apart = [observe(network, [part]) for part in tokens.split(4, dim=1)]
    together, causal = observe(network, [tokens, documents]), observe(network, [tokens])
    alone, within, across = (
        [found.metrics()["stability/max_attention_logit"] for found in several if found is not None]
        for several in (apart, [together], [causal])
    )
    assert within == [
        pytest.approx(max(alone))
    ]  # rotary positions are relative: a document's logits are those it has alone
    assert across[0] > within[0]


def test_nothing_to_look_at() -> None:
    assert observe(torch.nn.Linear(1, 1), []) is None
    assert Structure(2).metrics() == {}
    assert Structure(2).as_dict() == {"sublayer": [0, 1]}


def test_a_run_logs_them_all(argv: Argv, output_dir: Path) -> None:
    result = fit(argv("--model.scheme=mhc", "--budget.tokens=2560"))
    logged = run_of(output_dir, result.run_id).data.metrics
    expected = {metric for metric, _ in names.STRUCTURE.values()}
    expected |= {
        names.SECOND_EIGENVALUE,
        names.GRAD_NORM_SPIKES,
        names.CLIPPED_SHARE,
        names.STRUCTURE_S,
        names.VALIDATION_S,
    }
    expected |= {names.ACTIVATIONS_GIB, names.METRICS_MS, *names.STEP_PARTS_MS.values()}
    assert expected <= logged.keys()
    assert logged[names.ACTIVATIONS_GIB] > 0
    norms = [value for tokens, value in history(output_dir, result.run_id, names.GRAD_NORM) if tokens > 1280]
    # Every step of the second half is counted; where all its means lie on one side of the threshold, so do most steps.
    assert logged[names.CLIPPED_SHARE] == pytest.approx(1.0 if min(norms) > 1 else 0.0, abs=0.5)


def test_the_profile_is_drawn(argv: Argv) -> None:
    from xml.etree import ElementTree

    from resbench.harness.structure_figure import draw_profile

    profile = {"sublayer": [0, 1], "composite_forward": [1.0, 100.0], "composite_backward": [1.0, math.inf]}
    root = ElementTree.fromstring(draw_profile(profile | {"max_attention_logit": [2.0, None]}, "5 < 6 & more"))
    space = "{http://www.w3.org/2000/svg}"
    lines = [line.get("points", "").split() for line in root.iter(f"{space}polyline")]
    assert [len(line) for line in lines] == [2, 1, 1]  # what is infinite or absent has no point
    first, last = (float(point.split(",")[1]) for point in lines[0])
    assert first > last  # a larger gain is higher up
    texts = [text.text for text in root.iter(f"{space}text")]
    assert "5 < 6 & more" in texts
    assert {"1", "10", "100"} <= set(texts)  # the ticks of a logarithmic axis: its middle is the geometric mean
    assert draw_profile({"sublayer": [0]}, "nothing").count("<g") == 0
