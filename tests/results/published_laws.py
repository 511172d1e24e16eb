"""Losses that others published for models of several sizes and token budgets, to refit their laws from."""

from __future__ import annotations

C4_LAW = {"E": 1.51, "alpha": 0.242, "beta": 0.242}
"""Gadre et al. 2024 (arXiv 2403.08540v2), table 6, trained and evaluated on C4: E and eta, with alpha = beta = 2 eta (section 2.2)."""

C4_ERRORS = {(1439795200, 1): 0.008, (1439795200, 4): 0.015, (6889410560, 1): 0.043}
"""Relative errors of their predictions, without sign (figure 5), by (parameters, token multiplier)."""

C4_RUNS: dict[int, dict[float, float]] = {
    10569312: {0.5: 5.55264, 1: 5.22068, 2: 5.00381, 4: 4.77306, 8: 4.60311, 16: 4.50640, 32: 4.41777},
    78914048: {0.5: 4.05756, 1: 3.80028, 2: 3.64298, 4: 3.51702, 8: 3.43527, 16: 3.37237, 32: 3.30451},
    153677376: {0.5: 3.64233, 1: 3.43265, 2: 3.29510, 4: 3.19505, 8: 3.04581, 16: 2.99039, 32: 2.99755},
    411616256: {0.5: 3.16311, 1: 3.04174, 2: 2.94332, 4: 2.78694, 8: 2.80263, 16: 2.68809},
    1439795200: {1: 2.65686, 4: 2.47241},
    6889410560: {1: 2.38222},
}
"""Their runs on C4: parameters -> tokens over 20 tokens per parameter -> loss on the C4 validation set, nats per token, from `exp_data/models` of
https://github.com/mlfoundations/scaling (entry `c4_val`, rounded). Those with 5 tokens per parameter, off the trend by the paper, are left out.
"""
