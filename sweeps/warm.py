"""Imported by the fork server and by nobody else: everything a trial needs, loaded before the first trial is forked."""

import atexit
import os
import signal

from resbench.harness.preload import operators_first
from resbench.harness.processes import importing

# A scheduler may send SIGTERM to every process at once. The server stays until its sweep has ended, lest its trials die before they are saved.
signal.signal(signal.SIGTERM, signal.SIG_IGN)

with importing(
    for_good=True
):  # a collector that looked at all this later would touch, and so copy, every page that trials share with the fork server
    operators_first()
    from resbench.sweeps.trial import rehearse

    rehearse()
# The fork server has nothing to clean up, and taking down every library it loaded would take seconds and complain on the terminal.
atexit.register(os._exit, 0)
