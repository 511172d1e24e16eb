"""Imported by the fork server and by nobody else: everything a trial needs, loaded before the first trial is forked."""

import atexit
import os

from resbench.harness.processes import importing

with importing(
    for_good=True
):  # a collector that looked at all this later would touch, and so copy, every page that trials share with the fork server
    from resbench.sweeps.trial import rehearse

    rehearse()
# The fork server has nothing to clean up, and taking down every library it loaded would take seconds and complain on the terminal.
atexit.register(os._exit, 0)
