"""The kernels compile with the Triton that is installed, and fit on GPUs: those in Gluon, an experimental language, run in no interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_MEMORY = {90: 227 * 1024, 86: 99 * 1024}
"""Bytes a block may have by compute capability (CUDA programming guide): Hopper, and what has least of those that know bf16."""

WHOLE = {
    "mhc_boundary:4": {"write_project_kernel", "mhc_gates_kernel", "gradient_kernel", "learn_kernel"},
    "mhc_boundary:8": {
        "write_kernel",
        "wide_project_kernel",
        "wide_mixing_kernel",
        "wide_gradient_kernel",
        "wide_learn_kernel",
    },
    "mhc_read:8": {"gather_kernel"},
    "hc_boundary:4": {"write_project_kernel", "hc_gates_kernel", "gradient_kernel"},
}
"""Operation and streams -> kernels that it launches and those above it do not, or not in this form."""

IN_GLUON = {
    "mhc_boundary:2:gluon": {"write_project_kernel", "gradient_kernel"},
    "identity_boundary:4:gluon": {"write_project_kernel", "gradient_kernel"},
    "identity_boundary:8:gluon": {"wide_project_kernel", "wide_gradient_kernel"},
    "hc_boundary:8:gluon": {"wide_gradient_kernel"},
}


ON_ANY = {
    "hc_boundary:4": {
        "write_kernel",
        "project_kernel",
        "read_kernel",
        "gather_kernel",
        "scatter_kernel",
        "learn_kernel",
    }
}
"""HC's blocks are larger than mHC's."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "operations"),
    [(90, WHOLE), (90, IN_GLUON), (86, ON_ANY)],
    ids=["Hopper", "Hopper, in Gluon", "Ampere"],
)
def test_operations_compile_and_their_kernels_fit_a_block(
    capability: int, operations: dict[str, set[str]], tmp_path: Path
) -> None:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    script = Path(__file__).with_name("compile_for.py")
    command = [sys.executable, str(script), str(capability), *operations]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    compiled = [json.loads(line) for line in done.stdout.splitlines()]
    for operation, kernels in operations.items():
        assert {found["kernel"] for found in compiled if found["of"] == operation} >= kernels, operation
    assert max(found["shared"] for found in compiled) <= SHARED_MEMORY[capability]
