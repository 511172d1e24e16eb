"""The books of a sweep in a store that others write to as well, and that may be away for a while."""

from mlflow import MlflowClient

from resbench.harness.store import no_repeats
from resbench.sweeps.ledger import Entry, Ledger
from resbench.sweeps.patience import Patience
from resbench.sweeps.plan import PlannedRun


class PatientLedger(Ledger):
    """What a run already has is looked up before it is opened, and servers that are away are waited for."""

    def __init__(self, client: MlflowClient, experiment_id: str, study: str, patience: Patience) -> None:
        super().__init__(client, experiment_id, study)
        self._patience = patience

    def open(self, planned: PlannedRun) -> str:
        def look_and_open() -> str:
            # A server that died may have created the run all the same; and nothing may send a creation twice.
            self.look_up(planned)
            with no_repeats():
                return super(PatientLedger, self).open(planned)

        return self._patience(look_and_open)

    def refresh(self, planned: PlannedRun) -> Entry:
        return self._patience(lambda: super(PatientLedger, self).refresh(planned))

    def close(self, planned: PlannedRun) -> Entry:
        return self._patience(lambda: super(PatientLedger, self).close(planned))

    def fail(self, planned: PlannedRun, reason: str) -> None:
        self._patience(lambda: super(PatientLedger, self).fail(planned, reason))

    def hurry(self) -> None:
        self._patience.hurry()

    def interrupt(self, planned: PlannedRun) -> None:
        self._patience(lambda: super(PatientLedger, self).interrupt(planned))
