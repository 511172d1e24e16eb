"""What defines each of the later built-in schemes, against its paper's equations written out by hand and its paper's own counts."""

import itertools
import math
from typing import Any

import pytest
import torch
from architectures_support import factory, perturbed
from torch import Tensor, nn

from resbench.architectures import ResidualScheme, run_stack
from resbench.architectures.registry import resolve

C, L = 6, 5


def build(name: str, width: int = C, n_sublayers: int = L, **arguments: Any) -> Any:
    return resolve("scheme", name)(width, n_sublayers, **arguments)


def moved(name: str, **arguments: Any) -> Any:
    return perturbed(build(name, **arguments).double()).requires_grad_(False)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normed(x: Tensor, weight: Tensor | None = None) -> Tensor:
    y = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return y if weight is None else y * weight


class Branch(nn.Module):
    """y = tanh(u M_i)."""

    def __init__(self, i: int) -> None:
        super().__init__()
        self.matrix = random(C, C, seed=100 + i)

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(u @ self.matrix)


BRANCHES = [Branch(i) for i in range(L)]


def run(scheme: ResidualScheme, x: Tensor) -> Tensor:
    return run_stack(scheme, BRANCHES, x)


# mhc-lite


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_mhc_lite_mixes_all_permutations_with_softmax_weights(n: int) -> None:
    scheme = build("mhc-lite", n_streams=n).double()
    logits = random(7, math.factorial(n))
    expected = torch.zeros(7, n, n, dtype=torch.float64)
    for k, permutation in enumerate(itertools.permutations(range(n))):
        for out, into in enumerate(permutation):
            expected[:, out, into] += torch.softmax(logits, -1)[:, k]
    torch.testing.assert_close(scheme.mixing_matrix(logits), expected)


def test_mhc_lite_is_doubly_stochastic_at_logits_where_sinkhorn_is_not() -> None:
    logits = 8 * random(100, 24)
    exact = build("mhc-lite").double().mixing_matrix(logits)
    assert float((exact.sum(-2) - 1).abs().max()) < 1e-12
    from resbench.kernels.reference import sinkhorn

    approximate = sinkhorn(logits[:, :16].unflatten(-1, (4, 4)), 20)
    assert float((approximate.sum(-2) - 1).abs().max()) > 0.1


def test_mhc_lite_refuses_six_streams() -> None:
    with pytest.raises(
        ValueError, match=r"n_streams=6: mhc-lite mixes all n! permutations, expected n from 1 to 5; use kromhc or mhc"
    ):
        build("mhc-lite", n_streams=6)


# kromhc


@pytest.mark.parametrize(("n", "factors"), [(1, []), (2, [2]), (4, [2, 2]), (6, [2, 3]), (8, [2, 2, 2]), (4, [4])])
def test_kromhc_is_the_kronecker_product_of_its_factors(n: int, factors: list[int]) -> None:
    scheme = build("kromhc", n_streams=n, factors=None if factors != [4] else factors).double()
    assert scheme.factors == factors
    logits = random(sum(math.factorial(i) for i in factors))
    expected, start = torch.ones(1, 1, dtype=torch.float64), 0
    for i in factors:
        lite = build("mhc-lite", n_streams=i).double()
        expected = torch.kron(expected, lite.mixing_matrix(logits[start : start + math.factorial(i)]))
        start += math.factorial(i)
    torch.testing.assert_close(scheme.mixing_matrix(logits), expected)


def test_kromhc_with_one_factor_is_mhc_lite() -> None:
    krom, lite = moved("kromhc", factors=[4]), moved("mhc-lite")
    x = random(2, 3, C)
    torch.testing.assert_close(run(krom, x), run(lite, x))


@pytest.mark.parametrize(("n", "factors"), [(7, None), (4, [2, 3]), (6, [6]), (4, [1, 4])])
def test_kromhc_refuses_factors_it_cannot_use(n: int, factors: list[int] | None) -> None:
    with pytest.raises(
        ValueError, match=rf"n_streams={n}, factors=\[.*expected factors from 2 to 5 whose product is n_streams"
    ):
        build("kromhc", n_streams=n, factors=factors)


# orthogonal-hc


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_orthogonal_mixing_is_the_cayley_transform_and_a_rotation(n: int) -> None:
    scheme = build("orthogonal-hc", n_streams=n).double()
    logits = 3 * random(5, n * (n - 1) // 2)
    found = scheme.mixing_matrix(logits)
    for row, matrix in zip(logits, found, strict=True):
        skew = torch.zeros(n, n, dtype=torch.float64)
        for value, (a, b) in zip(row, itertools.combinations(range(n), 2), strict=True):
            skew[a, b], skew[b, a] = value, -value
        identity = torch.eye(n, dtype=torch.float64)
        torch.testing.assert_close(matrix, torch.linalg.inv(identity + skew) @ (identity - skew))
        assert float(torch.linalg.det(matrix)) == pytest.approx(1.0)


def test_a_product_of_orthogonal_mixings_neither_grows_nor_shrinks() -> None:
    scheme = build("orthogonal-hc").double()
    product = torch.linalg.multi_dot(list(scheme.mixing_matrix(3 * random(128, 6))))
    torch.testing.assert_close(torch.linalg.svdvals(product), torch.ones(4, dtype=torch.float64))


# single-pass-mhc


def test_single_pass_mhc_reads_with_the_weights_of_the_boundary_before() -> None:
    scheme = moved("single-pass-mhc", n_streams=3)
    x = random(1, 2, C)
    streams = x.unsqueeze(-2).expand(1, 2, 3, C)
    weights = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(1, 2, 3)
    for i in range(L):
        u = normed((weights.unsqueeze(-1) * streams).sum(-2), scheme.mhc.norms[i].weight)
        pre, post, res = scheme.mhc.coefficients(streams, i)
        streams = res @ streams + post.unsqueeze(-1) * BRANCHES[i](u).unsqueeze(-2)
        weights = pre
    torch.testing.assert_close(run(scheme, x), (weights.unsqueeze(-1) * streams).sum(-2))


def test_single_pass_mhc_costs_what_mhc_costs_up_to_its_exit() -> None:
    single, mhc = build("single-pass-mhc"), build("mhc")
    assert single.connection_params() == mhc.connection_params()
    assert single.connection_flops() - mhc.connection_flops() == 4 * C  # multiply-adds in place of additions


# frac-connections


def test_frac_connections_token_by_token() -> None:
    m, part = 3, C // 3
    scheme = moved("frac-connections", n_fractions=m)
    h = random(C)
    for i in range(L):
        H = h.view(m, part)
        static, weight = scheme.static[i], scheme.weight[i]
        s_a, s_b = scheme.scale[i]
        dynamic = torch.tanh(normed(H, scheme.coefficient_norms[i].weight) @ weight.T)
        B = s_b * dynamic[:, 0] + static[:, 0]
        Y = s_a * dynamic[:, 1 : m + 1] + static[:, 1 : m + 1]
        A = s_a * dynamic[:, m + 1 :] + static[:, m + 1 :]
        y = BRANCHES[i](normed((Y.T @ H).reshape(C), scheme.norms[i].weight)).view(m, part)
        h = torch.stack([sum(A[j, o] * H[j] for j in range(m)) + B[o] * y[o] for o in range(m)]).reshape(C)
    scheme_h = run(scheme, random(C).view(1, 1, C))
    torch.testing.assert_close(scheme_h[0, 0], h)


def test_one_fraction_is_hyper_connections_with_one_stream() -> None:
    frac, hc = moved("frac-connections", n_fractions=1), moved("hc", n_streams=1)
    state = hc.state_dict()
    order = [1, 0, 2]  # frac has write, read, mix; hc has read, write, mix
    for name, value in frac.state_dict().items():
        if name.startswith("static."):
            value = value[:, order]
        elif name.startswith("weight."):
            value = value[order]
        state[name] = value
    hc.load_state_dict(state)
    x = random(1, 2, C)
    torch.testing.assert_close(run(frac, x), run(hc, x))


def test_frac_connections_have_the_papers_number_of_parameters() -> None:
    # OLMo-1B: width 2048, 16 layers; the paper states 1152 static and 165,056 dynamic parameters for m = 4.
    assert build("frac-connections", 2048, 32, dynamic=False).connection_params() == 1152
    assert build("frac-connections", 2048, 32).connection_params() == 165_056


def test_frac_connections_name_a_width_they_cannot_split() -> None:
    with pytest.raises(ValueError, match="n_fractions=4 with width=6"):
        build("frac-connections")


# attnres


def by_hand(scheme: Any, x: Tensor, block: int) -> Tensor:
    """Sources as dictionaries of sums: the embedding, then one sum of outputs per block."""

    def attend(sources: list[Tensor], query: Tensor) -> Tensor:
        logits = torch.stack([(query * normed(v)).sum(-1) for v in sources])
        return sum(a.unsqueeze(-1) * v for a, v in zip(torch.softmax(logits, 0), sources, strict=True))  # type: ignore[return-value]

    outputs: list[Tensor] = []
    for i in range(L):
        sums = [sum(outputs[j : j + block]) for j in range(0, len(outputs), block)]
        mixed = attend([x, *sums], scheme.queries[i - 1]) if i else x
        outputs.append(BRANCHES[i](normed(mixed, scheme.norms[i].weight)))
    return attend([x, *(sum(outputs[j : j + block]) for j in range(0, L, block))], scheme.queries[-1])


@pytest.mark.parametrize(
    ("arguments", "block"), [({}, 1), ({"mode": "block", "n_blocks": 2}, 3), ({"mode": "block", "n_blocks": 1}, 5)]
)
def test_attnres_attends_over_outputs_or_blocks(arguments: dict[str, Any], block: int) -> None:
    scheme = moved("attnres", **arguments)
    assert scheme.block_size == block
    x = random(2, 3, C)
    torch.testing.assert_close(run(scheme, x), by_hand(scheme, x, block))


def test_attnres_with_as_many_blocks_as_sublayers_is_full() -> None:
    x = random(1, 2, C)
    assert torch.equal(run(moved("attnres", mode="block", n_blocks=L), x), run(moved("attnres"), x))


def test_attnres_retrieves_the_source_its_query_points_at() -> None:
    from resbench.architectures.depth_mix import depth_attention

    sources = [random(C, seed=i) for i in range(4)]
    found = depth_attention(sources, 200 * normed(sources[2]))
    torch.testing.assert_close(found, sources[2])


def test_block_attnres_keeps_a_state_that_does_not_grow_with_depth() -> None:
    state_sizes = {}
    for mode in ("full", "block"):
        scheme = build("attnres", C, 64, mode=mode, n_blocks=8)
        sizes: list[int] = []
        run_stack(
            scheme,
            [nn.Identity()] * 64,
            random(1, 1, C).float(),
            observe=lambda i, s, c, u, y, sizes=sizes: sizes.append(len(s)),
        )
        state_sizes[mode] = max(sizes)
    assert state_sizes == {
        "full": 64,
        "block": 9,
    }  # the embedding and 63 outputs; the embedding, 7 blocks and a running sum


# denseformer


@pytest.mark.parametrize(("dilation", "period", "size"), [(1, 1, 2), (2, 1, 1), (1, 2, 1), (2, 3, 1)])
def test_denseformer_averages_what_the_paper_averages(dilation: int, period: int, size: int) -> None:
    scheme = moved("denseformer", dilation=dilation, period=period, sublayers_per_block=size)
    x = random(2, 3, C)
    history, running = [x], x
    for i in range(L):
        running = running + BRANCHES[i](normed(running, scheme.norms[i].weight))
        block, rest = divmod(i + 1, size)
        if rest:
            continue
        history.append(running)
        if block % period == 0:
            used = [j for j in range(block + 1) if (block - j) % dilation == 0]
            alpha = scheme.alphas[str(block)]
            assert len(alpha) == len(used)
            running = sum(a * history[j] for a, j in zip(alpha, used, strict=True))  # type: ignore[assignment]
    torch.testing.assert_close(run(scheme, x), running)


def test_denseformer_has_a_weight_for_every_pair_of_blocks() -> None:
    # Blocks 1 .. N average over 2 .. N + 1 outputs, the embedding among them.
    assert build("denseformer", C, 2 * 48).connection_params() == 48 * 51 // 2


# laurel


@pytest.mark.parametrize(
    "arguments", [{"rank": 0}, {"weights": False, "rank": 2}, {"rank": 2}, {"rank": 2, "previous": 3}]
)
def test_laurel_step_by_step(arguments: dict[str, Any]) -> None:
    scheme = moved("laurel", **arguments)
    xs = [random(2, 3, C)]
    for i in range(L):
        y = BRANCHES[i](normed(xs[-1], scheme.norms[i].weight))
        a, b = 2 * torch.softmax(scheme.balance[i], -1) if scheme.balance else (1.0, 1.0)
        kept = xs[-1]
        if scheme.rank:
            gamma = scheme.gamma[i] if scheme.gamma else [1.0]
            seen = sum(g * x for g, x in zip(gamma, reversed(xs[-len(gamma) :]), strict=True))
            kept = kept + seen @ scheme.down[i].T @ scheme.up[i].T
        xs.append(a * y + b * kept)
    torch.testing.assert_close(run(scheme, xs[0]), xs[-1])


def test_laurel_has_the_papers_number_of_parameters() -> None:
    # "N = 20 and D = 1000 and using LAuReL-RW+LR [r = 4] leads to 160,040 extra parameters"
    assert build("laurel", 1000, 20, rank=4).connection_params() == 160_040
    assert build("laurel", 1000, 20, rank=0).connection_params() == 40
    k = 3  # 2 r D + k each; the first two sublayers have one and two activations to look at
    assert build("laurel", 1000, 20, weights=False, rank=4, previous=k).connection_params() == 20 * (8000 + k) - 2 - 1


def test_laurel_starts_with_orthogonal_rows_as_the_paper_does() -> None:
    down = build("laurel", 8, 1, rank=2).down[0]
    torch.testing.assert_close(down @ down.T, torch.eye(2) / 4)  # 4 entries of 1 / sqrt(2 * 8) a row
    assert down[1].nonzero().flatten().tolist() == [1, 3, 5, 7]


# all of them


@pytest.mark.parametrize("n", [1, 2, 4])
def test_parameter_counts_follow_the_papers(n: int) -> None:
    gates = 2 * n
    rows = {
        "mhc-lite": math.factorial(n),
        "kromhc": {1: 0, 2: 2, 4: 4}[n],
        "orthogonal-hc": n * (n - 1) // 2,
        "single-pass-mhc": n * n,
    }
    for name, mixing in rows.items():
        alphas = 3 if mixing else 2
        expected = L * ((gates + mixing) * (n * C + 1) + alphas)
        assert build(name, n_streams=n).connection_params() == expected, name
    assert build("attnres").connection_params() == L * C


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("mhc-lite", {"n_streams": 0}, "n_streams=0"),
        ("kromhc", {"n_streams": 0}, "n_streams=0"),
        ("orthogonal-hc", {"n_streams": 0}, "n_streams=0"),
        ("single-pass-mhc", {"n_streams": 0}, "n_streams=0"),
        ("orthogonal-hc", {"bias_init": "zero"}, "identical for ever"),
        ("frac-connections", {"n_fractions": 0}, "n_fractions=0"),
        ("attnres", {"mode": "half"}, "mode='half'"),
        ("attnres", {"n_blocks": 0}, "n_blocks=0"),
        ("denseformer", {"dilation": 0}, "dilation=0"),
        ("denseformer", {"period": 0}, "period=0"),
        ("laurel", {"rank": -1}, "rank=-1"),
        ("laurel", {"previous": 0}, "previous=0"),
        ("laurel", {"rank": 0, "previous": 2}, "previous=2 with rank=0"),
    ],
)
def test_impossible_configurations_name_the_field(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build(name, **arguments)


def test_what_is_recomputed_in_the_backward_pass_gives_the_same_gradients() -> None:
    for label in ("attnres", "mhc-lite", "frac-connections", "denseformer"):
        scheme = perturbed(factory(label)(C, L).double())
        x = random(1, 2, C).requires_grad_()
        (recomputed,) = torch.autograd.grad(run(scheme, x).square().sum(), x)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)  # then nothing is recomputed
            (kept,) = torch.autograd.grad(run(scheme, x).square().sum(), x)
        torch.testing.assert_close(recomputed, kept, rtol=1e-12, atol=1e-12)
