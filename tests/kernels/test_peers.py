"""The peers compute the sublayer that resbench computes: their layouts and matrix orders, from the formulas their documentation states."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from resbench.kernels import jobs, peers, reference
from resbench.kernels.cases import make


def tile_kernels_read(
    x: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, **options: float
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """x [1, T, 4, C]; the residual logits are [in, out]."""
    assert options == {"post_mult_value": 2.0, "pre_eps": 0.0, "sinkhorn_repeat": 20}
    pre, post, res = coefficients(x[0].flatten(1), phi, alpha, bias)
    return torch.einsum("tn,tnc->tc", pre, x[0])[None], (post[None, ..., None], res[None])


def tile_kernels_write(y: Tensor, x: Tensor, post: Tensor, res: Tensor) -> Tensor:
    return torch.einsum("btio,btic->btoc", res, x) + post * y[..., None, :]


def transformer_engine_read(
    x: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, fused_grad_x_acc_buffer: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """x [T, 1, C, 4]; the residual logits are [in, out]."""
    pre, post, res = coefficients(x[:, 0].flatten(1), phi, alpha, bias[0])
    return torch.einsum("tbcn,tn->tbc", x, pre), post[:, None], res[:, None]


def transformer_engine_write(
    y: Tensor, bias: None, post: Tensor, x: Tensor, res: Tensor, n: int, fused_grad_x_acc_buffer: Tensor | None
) -> Tensor:
    return y[..., None] * post[:, :, None] + x @ res


def coefficients(x: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    h = x @ phi.T * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    h = h * torch.cat([a.expand(k) for a, k in zip(alpha, (4, 4, 16), strict=True)]) + bias
    return h[:, :4].sigmoid(), 2 * h[:, 4:8].sigmoid(), reference.sinkhorn(h[:, 8:].view(-1, 4, 4).mT, 20).mT


MODULES = {
    "tile-kernels": (
        "tile_kernels.modeling.mhc",
        {"functional": SimpleNamespace(mhc_pre=tile_kernels_read, mhc_post=tile_kernels_write)},
    ),
    "TransformerEngine": (
        "transformer_engine.pytorch.triton",
        {
            "mhc": SimpleNamespace(
                mhc_generate_mix_and_aggregate=transformer_engine_read,
                mhc_fused_expand_combine=transformer_engine_write,
            )
        },
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_peer_gets_its_layout_and_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, content = MODULES[name]
    for end in range(1, module.count(".") + 1):
        monkeypatch.setitem(sys.modules, module.rsplit(".", end)[0], SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(__path__=[], **content))
    monkeypatch.setattr(peers, "importable", lambda package: package.startswith(module))

    case = make("mhc_boundary", 33, 4, 20, torch.float64, "cpu", backend="torch")
    given = {key: value.double() for key, value in case.inputs.items() if value is not None}
    peer = peers.sublayers(4, 20)[name]
    out = peer.step(jobs.leaves(peer.arrange(given)))[0].squeeze(0 if name == "tile-kernels" else 1)

    x = given["x"]
    pre, post, res = reference.mhc_coefficients(x, given["phi"], given["alpha"], given["bias"], 20)
    expected = reference.mhc_post(x, reference.mhc_pre(x, pre), post, res)
    torch.testing.assert_close(out if name == "tile-kernels" else out.mT, expected)


def test_peers_take_four_streams_only() -> None:
    assert peers.sublayers(2, 20) == {}


def test_a_peer_that_cannot_be_imported_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "halfpeer", None)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: object())
    assert not peers.importable("halfpeer")
    assert "halfpeer is installed but cannot be imported, so it is not timed" in capsys.readouterr().out
