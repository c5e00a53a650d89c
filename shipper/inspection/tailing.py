"""The part of `lens-ship tail` that is its own: records as lines, trouble on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson

from shipper.humanize import json_safe, sanitize
from shipper.inspection.record_line import Seen, line, to_map
from shipper.inspection.tail import Follower, Wanted, follow


def tail(places: Sequence[Path], wanted: Wanted, *, count: int, on: bool, as_json: bool) -> int:
    """Print the last `count` records, and with `on` those that come, until interrupted.

    Returns the exit code: 1 when there is no spool and none is waited for.
    """
    follower = Follower(places=places, wanted=wanted)
    for seen in follower.last(count):
        _print(seen, as_json=as_json)
    _tell(follower)
    if not on:
        if not follower.spools:
            _say(f"no spool at or below {', '.join(str(place) for place in places)}")
        return 0 if follower.spools else 1
    if not follower.spools:
        _say("no spool there yet; waiting for the first record")
    # Stopped in the middle of an event it warns, of nothing that anybody could do about.
    logging.getLogger("watchdog").setLevel(logging.ERROR)
    for each in follow(follower):
        if each is not None:
            _print(each, as_json=as_json)
            continue
        sys.stdout.flush()
        _tell(follower)
    return 0


def _print(seen: Seen, *, as_json: bool) -> None:
    text = orjson.dumps(json_safe(to_map(seen))).decode() if as_json else line(seen)
    print(text)  # noqa: T201


def _tell(follower: Follower) -> None:
    for text in follower.trouble:
        _say(text)
    follower.trouble.clear()


def _say(text: str) -> None:
    print(f"lens-ship: {sanitize(text, 4096)}", file=sys.stderr)  # noqa: T201
