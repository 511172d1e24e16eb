"""What the kernels' benchmark times, and in which order."""

from resbench.kernels.jobs import COMPILED, SHAPES, jobs


def test_ours_comes_first() -> None:
    found = jobs(with_peers=False)
    names = [job.implementation for job in found if job.operation == "sublayer"]
    ours = len(SHAPES) + 2  # and two other numbers of iterations
    assert names[:ours] == ["resbench"] * ours
    assert set(names[ours:]) == {"torch", "torch.compile"}
    assert len(set(found)) == len(found)


def test_every_shape_is_timed_and_torch_where_it_is_said_to_be() -> None:
    found = jobs(with_peers=False)
    ours = {
        (job.tokens, job.streams, job.width) for job in found if job.implementation == "resbench" and job.streams > 1
    }
    compiled = {
        (job.tokens, job.streams, job.width)
        for job in found
        if job.implementation == "torch.compile" and job.streams > 1
    }
    assert ours == set(SHAPES)
    assert compiled == set(COMPILED)
    assert {job.iterations for job in found if job.operation == "sublayer"} == {1, 20, 50}
