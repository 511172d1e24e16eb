"""What `resbench kernels check` compares, and that processes beside each other find what one finds."""

from resbench.kernels.cases import OPERATIONS
from resbench.kernels.suite import CPU_SHAPES, GPU_SHAPES, compare, comparisons


def test_every_operation_is_compared_at_every_number_of_streams_and_without_tokens() -> None:
    for device, shapes in (("cuda", GPU_SHAPES), ("cpu", CPU_SHAPES)):
        wanted = list(comparisons(device, OPERATIONS))
        assert len(set(wanted)) == len(wanted)
        for operation in OPERATIONS:
            own = {one.shape for one in wanted if one.operation == operation}
            assert own >= set(shapes)
            assert {n for _, n, _ in own} == {1, 2, 3, 4, 8}
            assert 0 in {tokens for tokens, _, _ in own}


def test_two_processes_find_the_same_as_one(device: str) -> None:
    found = [list(compare(device, ("rms_norm",), processes)) for processes in (1, 2)]
    assert found[0] == found[1]
    assert all(finding.passed for findings in found[0] for finding in findings)
