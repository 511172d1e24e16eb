"""Training through the kernels follows training through torch, for every scheme that has kernels."""

import math
from functools import partial

import pytest
import torch

from resbench.architectures.backbones.transformer import Transformer
from resbench.architectures.registry import resolve
from resbench.kernels import functional

SCHEMES = ("resnet", "mhc", "identity-hc", "hc")


def curve(scheme: str, steps: int, batch: int, device: str, dtype: torch.dtype, width: int, fused: bool) -> list[float]:
    """Losses of so many steps on one batch per step."""
    torch.manual_seed(0)
    own = {} if scheme == "resnet" else {"n_streams": 2}
    model = Transformer(partial(resolve("scheme", scheme), **own), 32, 8, None, 1, width, 2).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    losses = []
    with pytest.MonkeyPatch.context() as patch:
        if not fused:
            patch.setattr(functional, "use_triton", lambda x, backend, n=None: False)
        for _ in range(steps):
            tokens = torch.randint(32, (batch, 9), generator=generator).sort(-1).values.to(device)
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                loss = model(tokens[:, :-1], targets=tokens[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("scheme", SCHEMES)
def test_interpreted_kernels_train_as_torch_does(scheme: str, device: str) -> None:
    # float32: both round differently in the last bits, and AdamW's division by small second moments multiplies that in the first steps
    fused, plain = (curve(scheme, 6, 2, device, torch.float32, 16, fused) for fused in (True, False))
    assert fused == pytest.approx(plain, rel=1e-4)
    assert fused[-1] < fused[0]


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", SCHEMES)
def test_fifty_steps_in_bf16(scheme: str) -> None:
    # streams are rounded to 8 bits in different places, 4e-3 each; over 50 steps the losses may part by a few of those, not by more
    fused, plain = (curve(scheme, 50, 4, "cuda", torch.bfloat16, 64, fused) for fused in (True, False))
    assert max(abs(a - b) for a, b in zip(fused, plain, strict=True)) < 0.03
    assert fused[-1] < 0.8 * math.log(32)
