"""torch.compile for training: one full graph, fixed shapes, and a cache that all trials of a machine share."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import nn

from resbench.harness.compiled_files import remove_broken
from resbench.tasks.cache import default_cache_dir

CompileMode = Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs"]

CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
"""Environment variables of the compilers' caches, and the folders they get beside the token cache unless they are set."""

RECOMPILATIONS = 64
"""Models of different shape one process may compile; torch's own limit of 8 is for code that keeps changing shapes by accident."""


def share_caches() -> Path:
    """Point the compilers' caches to folders that outlive the process and its machine's restart. Returns the first of them.

    What the user has set stays; torch writes its own default, a temporary folder, into the same variable, and that does not count as set.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir as of_torch

    for variable, folder in CACHES.items():
        if os.environ.get(variable, of_torch()) == of_torch():
            os.environ[variable] = str(default_cache_dir() / folder)
    return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])


def compiled(network: nn.Module, mode: CompileMode = "default", whole: bool = True) -> Callable[..., Any]:
    """The network as one graph. The first call compiles, and raises ValueError for code that breaks the graph.

    Not ``whole`` allows breaks: FSDP2 gathers weights between the parts, outside of any graph. What a killed process left half-written in the
    compilers' cache is removed before compiling, and once more if compiling fails, which is then tried again.
    """
    import torch._dynamo

    cache = share_caches()
    _mend(cache)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
    keep_traces()
    # A new shape is compiled anew: kernels for "any" shape are slower, and a run has one.
    found: Callable[..., Any] = torch.compile(
        network, fullgraph=whole, dynamic=False, mode=None if mode == "default" else mode
    )

    def attempt(*inputs: Any, **named: Any) -> Any:
        try:
            return found(*inputs, **named)
        except (torch._dynamo.exc.BackendCompilerFailed, ImportError, OSError):
            if not _mend(cache):
                raise
            return found(*inputs, **named)

    def run(*inputs: Any, **named: Any) -> Any:
        try:
            return attempt(*inputs, **named)
        except torch._dynamo.exc.Unsupported as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"model.compile: the network is not one graph: {reason}. `resbench check-scheme NAME` shows where a scheme breaks it; "
                "--model.compile=false trains without compiling, RESBENCH_DEBUG=1 shows torch's explanation"
            ) from error

    return run


def keep_traces() -> None:
    """Let every network be found in the compilers' cache as autograd traced it, not only its kernels: tracing is what takes long the second time.

    torch leaves out networks with an autograd.Function, such as the loss in chunks, and with a change of autocast, though the code of both is in
    the cache's key (seen for either direction of the function).
    """
    import torch._functorch.config
    import torch._inductor.config

    torch._functorch.config.autograd_cache_allow_custom_autograd_functions = True
    torch._inductor.config.unsafe_marked_cacheable_functions |= {
        f"torch.amp.autocast_mode.{name}_autocast": torch.__version__ for name in ("_enter", "_exit")
    }


def _mend(cache: Path) -> bool:
    """Whether something was broken, and is removed now."""
    removed = remove_broken(cache)
    if removed:
        print(
            f"{cache}: removed {len(removed)} compiled file(s) that a killed process had left half-written ({removed[0].name}, ...); compiling anew",
            file=sys.stderr,
        )
    return bool(removed)
