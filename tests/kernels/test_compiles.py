"""The kernels compile for a Hopper GPU with the Triton that is installed: those in Gluon, an experimental language, run in no interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_MEMORY = 227 * 1024
"""Bytes a block may have on Hopper (CUDA programming guide, compute capability 9.0)."""

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


@pytest.mark.slow
@pytest.mark.parametrize("operations", [WHOLE, IN_GLUON], ids=["whole", "in Gluon"])
def test_operations_compile_and_their_kernels_fit_a_block(operations: dict[str, set[str]], tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    script = Path(__file__).with_name("compile_for_hopper.py")
    done = subprocess.run([sys.executable, script, *operations], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    compiled = [json.loads(line) for line in done.stdout.splitlines()]
    for operation, kernels in operations.items():
        assert {found["kernel"] for found in compiled if found["of"] == operation} >= kernels, operation
    assert max(found["shared"] for found in compiled) <= SHARED_MEMORY
