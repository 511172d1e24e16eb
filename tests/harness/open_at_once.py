"""Opening a store with others at the same moment, for processes that import no more than that takes."""

import multiprocessing.queues
import multiprocessing.synchronize

from resbench.harness.store import experiment_id, open_store


def open_at_once(
    uri: str, barrier: multiprocessing.synchronize.Barrier, answers: "multiprocessing.queues.Queue[str]"
) -> None:
    """Answer with the id of the experiment ``shared``, or with what went wrong."""
    try:
        barrier.wait(60)
        client = open_store(uri)
        answers.put(experiment_id(client, uri, "shared"))
    except BaseException as error:
        answers.put(repr(error))
