"""The environment variables that tell how a job was launched.

Rules:
- An allow-list: a variable is reported because it stands here, never because it is set.
- A prefix stands here only where a launcher owns it. Even then a name that tells of a secret,
  or one that configures the telemetry itself, is left out.
- Values are masked and shortened on the way out like every other text (a password in a URL goes).
"""

from __future__ import annotations

from spooler.detection.catalogue import load
from spooler.detection.view import View
from spooler.masking import hides

MOST_VARIABLES = 256

_LISTED = load("environment")
NAMES = frozenset(name for group in _LISTED["names"].values() for name in group)
PREFIXES = tuple(_LISTED["prefixes"])
OURS = tuple(_LISTED["excluded_prefixes"])


def look(view: View) -> dict[str, str]:
    # Names first: listing them is one step, while other threads may set variables.
    names = sorted(name for name in list(view.environ) if is_listed(name))
    found = {name: view.environ.get(name, "") for name in names[:MOST_VARIABLES]}
    return {name: value for name, value in found.items() if value}


def is_listed(name: str) -> bool:
    if name in NAMES:
        return True
    return name.startswith(PREFIXES) and not name.startswith(OURS) and not hides(name, "text")
