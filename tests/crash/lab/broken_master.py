"""Broken builds for the attack on the way to training masters."""

from __future__ import annotations

from tests.crash.lab.patches import Mutant, Patch

_RESEND = "shipper/delivery/resend.py"
_RESTARTED = (
    "        if self._epoch.name and not self._closed:\n"
    "            raise ReceiverRestarted(epoch)\n"
)

MASTER_MUTANTS: dict[str, Mutant] = {
    "forgotten-not-sent-again": Mutant(
        meaning="what a restarted master has forgotten is not sent again",
        patches=(
            Patch(
                file=_RESEND,
                old=_RESTARTED,
                new="",
            ),
        ),
    ),
    "newer-before-what-was-forgotten": Mutant(
        meaning="one report more is sent before what a restarted master has forgotten",
        patches=(
            Patch(
                file=_RESEND,
                old=_RESTARTED,
                new='        if self._epoch.name and not getattr(self, "late", False):\n'
                "            self.late = True\n            return\n" + _RESTARTED,
            ),
        ),
    ),
    "sample-in-doubt-sent-again": Mutant(
        meaning="a sample whose answer was lost is sent again to the same master",
        patches=(
            Patch(
                file=_RESEND,
                old="            if in_flight == (batch.first, answer.epoch):\n",
                new="            if False:\n",
            ),
        ),
    ),
    "reports-not-checked": Mutant(
        meaning="a report goes out whatever its time is",
        patches=(
            Patch(
                file="shipper/sinks/dlrover/report.py",
                old="    if not _FIRST <= seconds < _LAST:\n",
                new="    if False:\n",
            ),
            Patch(
                file="shipper/sinks/dlrover/sink.py",
                old="        if age < -RETENTION_SECONDS:\n",
                new="        if False:\n",
            ),
        ),
    ),
    "reports-out-of-order": Mutant(
        meaning="of two reports the later one goes out first",
        patches=(
            Patch(
                file="shipper/sinks/dlrover/sink.py",
                old="        return Plan(batches=tuple(batches), rejected",
                new="        batches.sort(key=lambda batch: batch.first ^ 1)\n"
                "        return Plan(batches=tuple(batches), rejected",
            ),
        ),
    ),
}
