"""Broken builds of what a node promises: disk, clock, isolation, dead processes, the account."""

from __future__ import annotations

from tests.crash.lab.patches import Mutant, Patch

NODE_MUTANTS: dict[str, Mutant] = {
    "ends-not-looked-for": Mutant(
        meaning="nobody looks whether the process of a spool is still there",
        patches=(
            Patch(
                file="shipper/lanes/pulse.py",
                old="        gone = not reader.is_owned()\n",
                new="        gone = False\n",
            ),
        ),
    ),
    "silence-is-death": Mutant(
        meaning="a process that has not written for a moment is taken for dead",
        patches=(
            Patch(
                file="spooler/spool/segments.py",
                old="            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)\n",
                new="            import time\n"
                "            newest = max(map(self.written_at, self.segments()), default=0.0)\n"
                "            if time.time() - newest > 0.6:\n"
                "                return False\n"
                "            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)\n",
            ),
        ),
    ),
    "goodbye-is-not-heard": Mutant(
        meaning="a process that ended in order is said to have been cut off",
        patches=(
            Patch(
                file="shipper/batch/batcher.py",
                old='    if not tail or tail[-1].kind == "exit":\n',
                new="    if not tail:\n",
            ),
        ),
    ),
}
