"""What is left to send, in words: for whoever waits for the end, and for systemd's status line."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from shipper.delivery.pipeline import Route
from shipper.delivery.queue import Lane
from shipper.delivery.sink_state import Health
from spooler.errors import SpoolError


def lines(lanes: Mapping[tuple[str, str], Lane], health: Mapping[str, Health]) -> list[str]:
    """One line for each spool and sink with something left, and what is in the way."""
    found = []
    for (sink, _), lane in sorted(lanes.items()):
        trouble = health[sink].trouble or lane.health.trouble
        for route in lane.routes():
            left = _left(route)
            if left:
                why = f" ({trouble.reason}: {trouble.detail})" if trouble else ""
                found.append(f"{route.reader.directory}: {left} for {sink}{why}")
    return found


def summary(
    lanes: Mapping[tuple[str, str], Lane], health: Mapping[str, Health], *, spools: int
) -> str:
    """One line: how many spools there are, and what is left for each sink; cheap."""
    left = dict.fromkeys(health, 0)
    for (sink, _), lane in lanes.items():
        for route in () if lane.caught_up() else lane.routes():
            with contextlib.suppress(SpoolError, OSError):  # said where it is read
                left[sink] += max(0, route.reader.last_seq() - route.position.seq)
    parts = [f"{spools} spools"]
    for sink, count in left.items():
        trouble = health[sink].trouble
        parts.append(f"{sink}: {count} to send{f' ({trouble.reason})' if trouble else ''}")
    return "; ".join(parts)


def _left(route: Route) -> str:
    """What a route has still to send; "" when there is nothing."""
    try:
        left = route.reader.last_seq() - route.position.seq
        if left > 0:
            return f"{left} records"
        route.reader.is_drained(route.position.seq)
    except (SpoolError, OSError) as error:
        return f"unreadable ({error}), perhaps records"
    return ""
