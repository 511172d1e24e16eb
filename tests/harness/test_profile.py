"""`--profile`: a trace that opens, and every microsecond in exactly one family."""

import gzip
import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from harness_support import artifact, run_of

from resbench.harness.fit import fit
from resbench.harness.kernel_families import by_family, family_of, table

Argv = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "matrix products"),
        ("aten::addmm", "matrix products"),
        ("void flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128>>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("add_norm_backward_kernel", "connections"),
        ("mhc_gates_kernel", "connections"),
        ("resbench::boundary", "connections"),
        ("triton_red_fused__log_softmax_exp_3", "loss"),
        ("triton_poi_fused_mul_silu_7", "elementwise (norms, activations, ...)"),
        ("multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "communication"),
        ("void at::native::_scatter_gather_elementwise_kernel", "elementwise (norms, activations, ...)"),
        ("something nobody has heard of", "other"),
    ],
)
def test_kernels_have_families(name: str, family: str) -> None:
    assert family_of(name) == family


def test_every_kernel_of_ours_is_counted_as_what_it_does() -> None:
    folder = Path(find_spec("resbench.kernels.functional").origin).parent  # type: ignore[union-attr, arg-type]
    sources = [*folder.glob("triton/*.py"), *folder.glob("gluon/*.py")]
    kernels = {
        name for source in sources for name in re.findall(r"^def (\w+_kernel)\(", source.read_text(), re.MULTILINE)
    }
    elsewhere = {name for name in kernels if family_of(name) != "connections"}
    assert elsewhere == {"rotary_kernel", "rotary_backward_kernel"}
    assert {family_of(name) for name in elsewhere} == {"elementwise (norms, activations, ...)"}


def test_times_are_per_step_and_add_up() -> None:
    rows = by_family([("aten::mm", 6000.0, 4), ("aten::bmm", 2000.0, 2), ("aten::add", 2000.0, 20)], steps=2)
    assert [(row.family, row.ms, row.calls) for row in rows] == [
        ("matrix products", 4.0, 3.0),
        ("elementwise (norms, activations, ...)", 1.0, 10.0),
    ]
    assert (rows[0].longest, rows[0].longest_ms) == ("aten::mm", 3.0)
    assert sum(row.share for row in rows) == pytest.approx(1.0)
    assert "| matrix products | 4.000 | 80.0% | 3 | `aten::mm` 3.000 ms |" in table(rows, "here")


def test_a_profiled_run(argv: Argv, output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = fit(argv("--profile", "--budget.tokens=1280", "--every.checkpoint=0"))
    assert result.outcome == "complete"
    folder = output_dir / result.run_id / "profile"
    trace = json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))
    assert any(event.get("name") == "aten::mm" for event in trace["traceEvents"])
    found = json.loads(artifact(output_dir, result.run_id, "profile/kernels.json"))
    assert found["steps"] == 4
    families = {row["family"]: row for row in found["families"]}
    # Per layer 4 products forward (qkv, out, gate and up, down) and one for the logits, each with two for its gradients.
    assert families["matrix products"]["calls"] >= 15
    assert families["attention"]["ms"] > 0
    assert families["optimizer"]["calls"] >= 1
    assert (folder / "kernels.png").stat().st_size > 5_000
    assert "matrix products" in capsys.readouterr().out


def test_profiling_does_not_make_it_another_configuration(argv: Argv, output_dir: Path) -> None:
    runs = [fit(argv(*more, "--budget.tokens=256", "--every.checkpoint=0")) for more in ((), ("--profile",))]
    tags = [run_of(output_dir, run.run_id).data.tags["config_hash"] for run in runs]
    assert tags[0] == tags[1]
    assert runs[0].val_loss == runs[1].val_loss
