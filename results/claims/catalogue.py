"""The claims that runs of a study can test, with their sources and figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

HC = "Hyper-Connections, arXiv 2409.19606"
MHC = "mHC, arXiv 2512.24880"
MHC_LITE = "mHC-lite, arXiv 2601.05732"
INDEPENDENT = "independent studies"

Kind = Literal["below", "equal", "gain above", "gain at most", "diverges more"]


@dataclass(frozen=True)
class Variant:
    """Which runs are meant: a scheme, with that many streams or Sinkhorn iterations where a study varies them."""

    scheme: str
    n_streams: int | None = None
    sinkhorn_iterations: int | None = None
    not_labelled: str = ""
    """Runs whose label has this word are others."""

    def of(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Its runs in a labelled table."""
        chosen = runs["scheme"] == self.scheme
        for column in ("n_streams", "sinkhorn_iterations"):
            value = getattr(self, column)
            if value is not None:
                chosen &= runs[column] == value
        if self.not_labelled:
            chosen &= ~runs["label"].str.contains(self.not_labelled, regex=False)
        return runs[chosen.fillna(False).astype(bool)]


@dataclass(frozen=True)
class Claim:
    """``kind`` says what is tested of ``a`` and ``b``; ``theirs`` is the source's figure; ``bound`` is that of a gain."""

    statement: str
    source: str
    theirs: str
    kind: Kind
    a: Variant
    b: Variant | None = None
    bound: float | None = None


RESNET = Variant("resnet")
FOUR = Variant("mhc", 4, 20)

CLAIMS = (
    Claim("mHC ends below the plain residual", MHC, "−0.021 nats at 27B", "below", FOUR, RESNET),
    Claim("mHC ends below HC", MHC_LITE, "−0.044 nats at 0.36B", "below", FOUR, Variant("hc", 4)),
    Claim("HC with 1 stream gains nothing", HC, "+0.008 nats at 1B", "equal", Variant("hc", 1), RESNET),
    Claim(
        "HC with 2 streams ends below the plain residual", HC, "−0.009 nats at 1B", "below", Variant("hc", 2), RESNET
    ),
    Claim(
        "HC with 4 streams ends below the plain residual", HC, "−0.030 nats at 1B", "below", Variant("hc", 4), RESNET
    ),
    Claim(
        "HC with 8 streams ends below the plain residual", HC, "−0.033 nats at 1B", "below", Variant("hc", 8), RESNET
    ),
    Claim(
        "mHC with 8 streams is no better than with 4",
        INDEPENDENT,
        "−0.006 ± 0.011 nats",
        "equal",
        Variant("mhc", 8, 20),
        FOUR,
    ),
    Claim(
        "mHC is no better than the same without mixing (identity-HC)",
        INDEPENDENT,
        "as good or better",
        "equal",
        FOUR,
        Variant("identity-hc", 4),
    ),
    Claim(
        "mHC ends below a resnet as wide as its parameters allow",
        INDEPENDENT,
        "the control has erased gains before",
        "below",
        FOUR,
        Variant("wide", not_labelled="flops"),
    ),
    Claim(
        "HC amplifies more than mHC", MHC, "peaks of about 3000 and 1.6 at 27B", "gain above", Variant("hc", 4), FOUR
    ),
    Claim("mHC amplifies less than twofold", MHC, "at most about 1.6 at 27B", "gain at most", FOUR, bound=2.0),
    Claim(
        "HC diverges where mHC does not",
        MHC,
        "loss surge of HC at step 12,000 at 27B",
        "diverges more",
        Variant("hc", 4),
        FOUR,
    ),
)
