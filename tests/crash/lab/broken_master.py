"""Broken builds for the attack on the way to training masters."""

from __future__ import annotations

from tests.crash.lab.patches import BrokenBuild, Patch

_AGAIN = "shipper/delivery/resend.py"
_FORGOTTEN = (
    "            if self._life.name:\n                raise Forgotten(life)\n"
    "            self._note(replace(self._life, name=life))\n"
)

MASTER_BUILDS: dict[str, BrokenBuild] = {
    "no-resend-after-restart": BrokenBuild(
        meaning="reports that a restarted master has lost are not sent again",
        patches=(
            Patch(
                file=_AGAIN,
                old=_FORGOTTEN,
                new="            self._note(replace(self._life, name=life))\n",
            ),
        ),
    ),
    "newer-before-resend": BrokenBuild(
        meaning="one newer report is sent before the resend to a restarted master",
        patches=(
            Patch(
                file=_AGAIN,
                old=_FORGOTTEN,
                new='            if self._life.name and not getattr(self, "late", False):\n'
                "                self.late = True\n                return\n" + _FORGOTTEN,
            ),
        ),
    ),
    "ambiguous-sample-resent": BrokenBuild(
        meaning="a sample whose answer was lost is sent again to the same master",
        patches=(
            Patch(
                file=_AGAIN,
                old="        if once and self._flies(batch, greeting.epoch):\n",
                new="        if False:\n",
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
                file="shipper/sinks/dlrover/sink.py",
                old="        if age < -RETENTION_SECONDS:\n",
                new="        if False:\n",
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
