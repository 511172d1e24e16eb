"""The backbone: its counts, its seeds, what it refuses, and that it is a causal language model."""

import functools

import pytest
import torch
from architectures_support import factory
from torch.utils.flop_counter import FlopCounterMode

from resbench.architectures.backbones.transformer import Transformer, rotation_table, widened
from resbench.architectures.registry import resolve
from resbench.architectures.sizes import SIZES
from resbench.kernels.reference import rotate

V, T = 31, 12


def build(label: str = "resnet", seed: int = 0, **arguments: object) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(factory(label), V, T, **({"size": None, "depth": 2, "width": 16, "n_heads": 2} | arguments))


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, V, (2, T), generator=torch.Generator().manual_seed(seed))


def test_no_token_sees_a_later_one(label: str) -> None:
    model, x = build(label), tokens()
    before = model(x)
    x[0, 7] = (x[0, 7] + 1) % V
    changed = (model(x) != before).any(-1)
    assert not changed[0, :7].any()
    assert changed[0, 7:].all()
    assert not changed[1].any()


def test_the_same_seed_gives_every_scheme_the_same_branches(label: str) -> None:
    if label == "wide":
        pytest.skip("its MLPs have another shape by design")
    mine, resnet, other = build(label).state_dict(), build().state_dict(), build(seed=1).state_dict()
    shared = [name for name in resnet if not name.startswith("scheme.") and name in mine]
    assert {"embedding.weight", "head.weight", "branches.3.inner.out.weight"} <= set(shared)
    for name in shared:
        assert torch.equal(mine[name], resnet[name]), name
    assert not torch.equal(other["embedding.weight"], resnet["embedding.weight"])


def test_all_schemes_start_as_the_same_function(label: str) -> None:
    if label == "wide":
        pytest.skip("its MLPs have another shape by design")
    torch.testing.assert_close(build(label)(tokens()), build()(tokens()), rtol=1e-4, atol=5e-5)


def test_hc_scales_its_output_projections_by_the_root_of_n() -> None:
    plain = build("hc")
    torch.manual_seed(0)
    scaled = Transformer(resolve("scheme", "hc"), V, T, size=None, depth=2, width=16, n_heads=2)
    torch.testing.assert_close(scaled.branches[1].inner.out.weight, 2 * plain.branches[1].inner.out.weight)
    assert torch.equal(scaled.branches[1].inner.gate_up.weight, plain.branches[1].inner.gate_up.weight)


def test_flops_are_the_counted_matrix_products() -> None:
    """The counter sees resnet's matrix products; attention it counts over all T positions, the formula over the causal (T + 1) / 2."""
    model = build()
    with FlopCounterMode(display=False) as counter:
        model(tokens())
    attention = sum(v for k, v in counter.get_flop_counts()["Global"].items() if "attention" in str(k))
    dense = counter.get_total_flops() - attention
    per_token = model.flops_per_token() - model.scheme.connection_flops() - 2 * 2 * 16 * (T + 1) // 2 * 2
    assert dense == per_token * 2 * T


def test_parameters_are_counted_once() -> None:
    untied, tied = build(), build(tie_embeddings=True)
    assert untied.params_total() - tied.params_total() == V * 16
    mhc = build("mhc")
    assert mhc.params_total() - untied.params_total() == mhc.params_connection()


@pytest.mark.parametrize("on", ["params", "flops"])
@pytest.mark.parametrize("name", ["mhc", "hc", "identity-hc"])
@pytest.mark.parametrize("size", ["400k", "1m"])
def test_the_wide_control_matches_to_half_a_step(size: str, name: str, on: str) -> None:
    with torch.device("meta"):
        target = Transformer(resolve("scheme", name), 257, 64, size=size)
        wide = Transformer(
            functools.partial(resolve("scheme", "wide"), match=resolve("scheme", name), on=on), 257, 64, size=size
        )
    if on == "params":
        assert abs(wide.params_total() - target.params_total()) <= 8 * 3 * target.width / 2
    else:
        assert abs(wide.flops_per_token() - target.flops_per_token()) <= 8 * 6 * target.width / 2
    assert all(ffn % 8 == 0 for ffn in wide.ffn_widths)


def test_widening_spreads_the_remainder_over_the_first_layers() -> None:
    # 5 steps of 8 hidden units of 3 x 4 parameters each, over 2 layers
    assert widened(32, 4, 2, 5 * 8 * 12, 0) == [32 + 24, 32 + 16]


def test_rotation_depends_on_distance_only() -> None:
    table = rotation_table(16, 8, 10000.0)
    q, k = torch.randn(8), torch.randn(8)
    score = rotate(q.expand(16, 8), table) @ rotate(k.expand(16, 8), table).T
    for distance in range(-15, 16):
        diagonal = score.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotate(q.expand(16, 8), table).norm(dim=-1), q.norm().expand(16))


def test_streams_follow_autocast_unless_told_otherwise() -> None:
    for stream_dtype, expected in (("compute", torch.bfloat16), ("float32", torch.float32)):
        model = build("mhc", stream_dtype=stream_dtype)
        seen: list[torch.dtype] = []
        with torch.autocast("cpu", torch.bfloat16):
            model(tokens(), observe=lambda i, state, ctx, u, y, seen=seen: seen.extend([state.dtype, ctx.pre.dtype]))
        assert set(seen[::2]) == {expected}
        assert set(seen[1::2]) == {torch.float32}


def test_bf16_tracks_fp32(label: str) -> None:
    model = build(label)
    full = model(tokens())
    with torch.autocast("cpu", torch.bfloat16):
        half = model(tokens())
    assert (half.float() - full).norm() / full.norm() < 0.02


@pytest.mark.parametrize("name", list(SIZES))
def test_a_size_is_what_it_is_called(name: str) -> None:
    unit = {"k": 1e3, "m": 1e6, "b": 1e9}[name[-1]]
    assert SIZES[name].params == pytest.approx(float(name[:-1]) * unit, rel=0.12)
    assert SIZES[name].width % SIZES[name].n_heads == 0
    with torch.device("meta"):
        model = Transformer(resolve("scheme", "resnet"), V, T, size=name)
    matrices = sum(p.numel() for n, p in model.named_parameters() if n.startswith("branches.") and p.ndim == 2)
    assert matrices == SIZES[name].params


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"width": 15}, "width=15 with n_heads=2"),
        ({"width": 6}, "even size"),
        ({"depth": 0}, "depth=0: expected at least 1"),
        ({"depth": None}, "depth is not set"),
        ({"size": "2m"}, "size='2m' is not a known size: choose one of 100k"),
        ({"size": "1m", "width": 64, "n_heads": None}, "n_heads is not set"),
    ],
)
def test_impossible_shapes_say_so(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build(**arguments)


def test_a_sequence_past_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="context_length=12"):
        build()(torch.zeros(1, T + 1, dtype=torch.int64))


def test_decay_leaves_norms_embeddings_and_static_connections_alone() -> None:
    model = build("mhc")
    decayed = {name for name, _ in model.named_parameters()} - model.no_weight_decay()
    assert decayed == {
        "head.weight",
        *(f"branches.{i}.inner.{part}.weight" for i in (0, 2) for part in ("qkv", "out")),
        *(f"branches.{i}.inner.{part}.weight" for i in (1, 3) for part in ("gate_up", "out")),
        *(f"scheme.phi.{i}" for i in range(4)),
    }


@pytest.mark.parametrize("label", ["resnet", "hc", "mhc", "attnres"])
def test_64_sublayers_are_finite_at_the_start(label: str) -> None:
    model = build(label, depth=32)
    loss = model(tokens()).logsumexp(-1).mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
