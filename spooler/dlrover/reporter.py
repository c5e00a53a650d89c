"""What this process has recorded, for scripts that print it."""

from __future__ import annotations

from typing import Any

from spooler.recorder import recorder


def stats() -> dict[str, Any]:
    """What this process has recorded by kind, dropped by reason, and where it records to."""
    mine = recorder()
    return {
        "recorded": dict(mine.recorded),
        "dropped": dict(mine.dropped),
        "directory": mine.directory,
    }


class GlobalReporter:
    """The reporter of earlier exporters, for scripts that print its `stats`.

    "Sent" here means committed to the spool: from there on delivery does not depend on this
    process any more. What has been delivered, `lens-ship status` knows.
    """

    @property
    def stats(self) -> dict[str, int]:
        """Counts under the names that such scripts expect."""
        mine = recorder()
        return {
            "detection_sent": mine.recorded.get("detection", 0),
            "metrics_sent": mine.recorded.get("step", 0),
            "logs_sent": 0,
            "errors": sum(mine.dropped.values()),
        }


def get_global_reporter() -> GlobalReporter:
    return GlobalReporter()
