"""The kernels run on the GPU when there is one, else in Triton's interpreter, which must be asked for before the kernels are imported."""

import os
from collections.abc import Iterator

import pytest
import torch

GPU = torch.cuda.is_available()


def interpret_triton() -> None:
    """Import the kernels interpreted, even if another test's libraries already imported Triton compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import triton.language as tl
        from triton.runtime.interpreter import InterpretedFunction
        from triton.runtime.jit import JITFunction

        for module in (tl, tl.standard):
            for name, value in list(vars(module).items()):
                if isinstance(value, JITFunction):
                    setattr(module, name, InterpretedFunction(value.fn))
        from resbench.kernels.launches import backward, forward, norm, sinkhorn

        assert backward
        assert forward
        assert norm
        assert sinkhorn


if not GPU:
    interpret_triton()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where to put tensors so that the kernels run on them."""
    from resbench.kernels import functional

    if not GPU:
        monkeypatch.setattr(functional, "INTERPRETED", True)
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        assert os.environ["TRITON_INTERPRET"] == "1"
    return "cuda" if GPU else "cpu"
