"""What defines hc, mhc and their controls; what every scheme must do is in test_conformance.py."""

import math

import pytest
import torch
from architectures_support import SCHEMES, factory, perturbed
from torch import Tensor, nn

from resbench.architectures import ResidualScheme, run_stack
from resbench.architectures.registry import resolve

C, L = 6, 5


class Nonlinear(nn.Module):
    """A branch with no symmetry: y = tanh(u M)."""

    def __init__(self, norm: nn.Module, seed: int) -> None:
        super().__init__()
        self.norm = norm
        self.matrix = torch.randn(C, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(self.norm(u) @ self.matrix.to(u.dtype))


def stack(scheme: ResidualScheme) -> list[nn.Module]:
    return [Nonlinear(scheme.branch_norm(i).to(torch.float64), i) for i in range(scheme.n_sublayers)]


def embeddings(seed: int = 0, batch: int = 2, length: int = 3) -> Tensor:
    return torch.randn(batch, length, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x: Tensor) -> Tensor:
    return x / x.square().mean(-1, keepdim=True).sqrt()


def test_a_fresh_stack_computes_what_resnet_computes(label: str) -> None:
    # The exit may scale the result (a sum over n equal streams); every backbone norms it next, so directions are what counts. attnres starts with
    # averages where resnet has sums of up to L + 1 vectors: the eps of the norms weighs (L + 1)^2 as much.
    tolerance = 2e-6 * ((L + 1) ** 2 if label.startswith("attnres") else 1)
    scheme, resnet = factory(label)(C, L).double(), factory("resnet")(C, L).double()
    x = embeddings()
    torch.testing.assert_close(
        unit(run_stack(scheme, stack(scheme), x)),
        unit(run_stack(resnet, stack(resnet), x)),
        rtol=tolerance,
        atol=tolerance,
    )


@pytest.mark.parametrize("n", [1, 2, 4])
def test_parameter_counts_follow_the_papers(n: int) -> None:
    count = {
        "mhc": n * C * (n * n + 2 * n) + (n * n + 2 * n) + 3,
        "identity-hc": n * C * 2 * n + 2 * n + 2,
        "hc": C * (n + 2) + n * (n + 2) + 2 + C,
    }
    resnet = sum(p.numel() for p in resolve("scheme", "resnet")(C, L).parameters())
    for name, per_sublayer in count.items():
        scheme = resolve("scheme", name)(C, L, n_streams=n)
        assert scheme.connection_params() == L * per_sublayer
        assert scheme.connection_params() == sum(p.numel() for p in scheme.parameters()) - resnet
    static = resolve("scheme", "hc")(C, L, n_streams=n, dynamic=False)
    assert static.connection_params() == L * n * (n + 2)


def test_flop_counts_follow_the_equations() -> None:
    n, t = 3, 7
    read, write, mix, norm, rows = 2 * n * C, 2 * n * C, 2 * n * n * C, 2 * n * C, n * n + 2 * n
    gates = 2 * n * C * rows + norm + 2 * rows
    mhc = resolve("scheme", "mhc")(C, L, n_streams=n, sinkhorn_iterations=t)
    assert mhc.connection_flops() == L * (gates + 4 * n * n * t + read + mix + write) + n * C
    identity = resolve("scheme", "identity-hc")(C, L, n_streams=n)
    assert identity.connection_flops() == L * (2 * n * C * 2 * n + norm + 4 * n + read + write) + n * C
    static = resolve("scheme", "hc")(C, L, n_streams=n, dynamic=False)
    assert static.connection_flops() == L * (read + mix + write) + n * C
    dynamic = resolve("scheme", "hc")(C, L, n_streams=n)
    assert dynamic.connection_flops() - static.connection_flops() == L * n * (4 * C + 2 * C * (n + 2) + 3 * (n + 2))
    assert resolve("scheme", "resnet")(C, L).connection_flops() == L * C


def test_mhc_token_by_token() -> None:
    """The equations of the module's docstring, written out with scalars and loops."""
    n, t_max = 3, 4
    scheme = perturbed(resolve("scheme", "mhc")(C, L, n_streams=n, sinkhorn_iterations=t_max, eps=0.0).double())
    scheme.requires_grad_(False)
    state = torch.randn(1, 1, n, C, dtype=torch.float64)
    u, ctx = scheme.read(state, 2)
    streams = state[0, 0]
    flat = streams.reshape(-1)
    r = math.sqrt(sum(float(v) ** 2 for v in flat) / (n * C))
    alpha = [float(a) for a in scheme.alpha[2]]
    ht = [
        alpha[0 if k < n else 1 if k < 2 * n else 2] * float(scheme.phi[2][k] @ flat) / r + float(scheme.bias[2][k])
        for k in range(n * n + 2 * n)
    ]
    pre = [1 / (1 + math.exp(-h)) for h in ht[:n]]
    post = [2 / (1 + math.exp(-h)) for h in ht[n : 2 * n]]
    m = [[math.exp(ht[2 * n + o * n + i]) for i in range(n)] for o in range(n)]
    for _ in range(t_max):
        columns = [sum(m[o][i] for o in range(n)) for i in range(n)]
        m = [[m[o][i] / columns[i] for i in range(n)] for o in range(n)]
        m = [[v / sum(row) for v in row] for row in m]
    mean = sum(pre[j] * streams[j] for j in range(n))
    torch.testing.assert_close(u[0, 0], mean / (mean.square().mean() + 1e-6).sqrt() * scheme.norm(2).weight)
    y = torch.randn(1, 1, C, dtype=torch.float64)
    written = torch.stack([sum(m[o][i] * streams[i] for i in range(n)) + post[o] * y[0, 0] for o in range(n)])
    torch.testing.assert_close(scheme.write(state, ctx, y, 2)[0, 0], written)


def test_hc_token_by_token() -> None:
    n = 3
    scheme = perturbed(resolve("scheme", "hc")(C, L, n_streams=n).double()).requires_grad_(False)
    state = torch.randn(1, 1, n, C, dtype=torch.float64)
    u, ctx = scheme.read(state, 1)
    streams, static = state[0, 0], scheme.static[1]
    s_a, s_b = (float(s) for s in scheme.scale[1])
    normed = torch.stack([x / (x.square().mean() + 1e-6).sqrt() for x in streams]) * scheme.coefficient_norms[1].weight
    w_m, w_b, w_r = scheme.weight[1][0], scheme.weight[1][1], scheme.weight[1][2:].T
    a_m = s_a * torch.tanh(normed @ w_m) + static[:, 0]
    b = s_b * torch.tanh(normed @ w_b) + static[:, 1]
    a_r = s_a * torch.tanh(normed @ w_r) + static[:, 2:]
    mean = a_m @ streams
    torch.testing.assert_close(u[0, 0], mean / (mean.square().mean() + 1e-6).sqrt() * scheme.norm(1).weight)
    y = torch.randn(1, 1, C, dtype=torch.float64)
    torch.testing.assert_close(scheme.write(state, ctx, y, 1)[0, 0], a_r.T @ streams + torch.outer(b, y[0, 0]))


def test_mhc_mixes_doubly_stochastically_and_identity_hc_not_at_all() -> None:
    state = torch.randn(2, 3, 4, C, dtype=torch.float64)
    mhc = perturbed(resolve("scheme", "mhc")(C, L, sinkhorn_iterations=200, res_off_diagonal=-1.0).double())
    h = mhc.mixing(state, mhc.read(state, 0)[1], 0)
    torch.testing.assert_close(h.sum(-1), torch.ones_like(h.sum(-1)), rtol=0, atol=1e-12)
    torch.testing.assert_close(h.sum(-2), torch.ones_like(h.sum(-2)), rtol=0, atol=1e-6)
    assert (h > 0).all()
    identity = perturbed(resolve("scheme", "identity-hc")(C, L).double())
    h = identity.mixing(state, identity.read(state, 0)[1], 0)
    assert (h == torch.eye(4)).all()


@pytest.mark.parametrize(("order", "exact"), [("columns-first", -1), ("rows-first", -2)])
def test_the_axis_normalised_last_is_exact(order: str, exact: int) -> None:
    state = torch.randn(1, 2, 4, C, dtype=torch.float64)
    scheme = perturbed(
        resolve("scheme", "mhc")(C, L, sinkhorn_iterations=1, order=order, res_off_diagonal=-1.0).double()
    )
    h = scheme.mixing(state, scheme.read(state, 0)[1], 0)
    other = -3 - exact
    assert (h.sum(exact) - 1).abs().max() < 1e-12
    assert (h.sum(other) - 1).abs().max() > 1e-4


def test_observer_sees_every_sublayer_in_order(label: str) -> None:
    scheme = factory(label)(C, L).double()
    seen: list[int] = []
    run_stack(scheme, stack(scheme), embeddings(), observe=lambda i, state, ctx, u, y: seen.append(i))
    assert seen == list(range(L))


def test_static_parameters_do_not_decay() -> None:
    for name in ("mhc", "hc", "identity-hc"):
        scheme = resolve("scheme", name)(C, 1)
        decayed = {n for n, _ in scheme.named_parameters()} - scheme.no_weight_decay()
        assert decayed == {"weight.0" if name == "hc" else "phi.0"}


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("mhc", {"n_streams": 0}, "n_streams=0: expected at least 1"),
        ("hc", {"n_streams": -1}, "n_streams=-1: expected at least 1"),
        ("identity-hc", {"n_streams": 0}, "n_streams=0"),
        ("mhc", {"sinkhorn_iterations": -1}, "sinkhorn_iterations=-1"),
        ("mhc", {"bias_init": "nought"}, "bias_init='nought'"),
        ("mhc", {"order": "diagonal"}, "order='diagonal'"),
        ("mhc", {"start": "log"}, "start='log'"),
        ("mhc", {"exit": "last"}, "exit='last'"),
        ("mhc", {"bias_init": "zero"}, "identical for ever"),
        ("identity-hc", {"bias_init": "mean-read"}, "identical for ever"),
        ("wide", {"on": "time"}, "on='time'"),
    ],
)
def test_impossible_configurations_name_the_field(name: str, arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        resolve("scheme", name)(C, L, **arguments)


def test_every_built_in_scheme_is_covered_here() -> None:
    from resbench.architectures.registry import available

    assert {name for name, plugin in available("scheme").items() if plugin.distribution == "resbench"} == {
        name for name, _ in SCHEMES.values()
    }
