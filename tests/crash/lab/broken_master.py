"""Broken builds for the attack on the way to training masters."""

from __future__ import annotations

from tests.crash.lab.patches import BrokenBuild, Patch

_RESEND = "shipper/delivery/resend.py"
_RESTARTED = (
    "        if self._epoch.name and not self._closed:\n"
    "            raise ReceiverRestarted(epoch)\n"
)

MASTER_BUILDS: dict[str, BrokenBuild] = {
    "no-resend-after-restart": BrokenBuild(
        meaning="reports that a restarted master has lost are not sent again",
        patches=(
            Patch(
                file=_RESEND,
                old=_RESTARTED,
                new="",
            ),
        ),
    ),
    "newer-before-resend": BrokenBuild(
        meaning="one newer report is sent before the resend to a restarted master",
        patches=(
            Patch(
                file=_RESEND,
                old=_RESTARTED,
                new='        if self._epoch.name and not getattr(self, "late", False):\n'
                "            self.late = True\n            return\n" + _RESTARTED,
            ),
        ),
    ),
    "ambiguous-sample-resent": BrokenBuild(
        meaning="a sample whose answer was lost is sent again to the same master",
        patches=(
            Patch(
                file=_RESEND,
                old="            if in_flight == (batch.first, answer.epoch):\n",
                new="            if False:\n",
            ),
        ),
    ),
    "reports-not-checked": BrokenBuild(
        meaning="a report is sent however old it is",
        patches=(
            Patch(
                file="shipper/sinks/dlrover/report.py",
                old="    if not _FIRST <= seconds < _LAST:\n",
                new="    if False:\n",
            ),
            Patch(
                file="shipper/sinks/dlrover/report.py",
                old="    if ahead > AHEAD_SECONDS:\n",
                new="    if False:\n",
            ),
        ),
    ),
    "reports-out-of-order": BrokenBuild(
        meaning="of two reports the later one is sent first",
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
