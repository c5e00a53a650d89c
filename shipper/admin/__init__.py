"""The service's HTTP port: is it alive, is it ready, its metrics, and a page for people.

Rules:

- It only tells: GET and HEAD, nothing that changes anything.
- It never hurts shipping: requests are answered from what was looked up before, by threads whose
  number and time are bounded; a port that cannot be had is said and tried again, and records go on
  being sent.
- Nothing is fetched from anywhere else: the page is one file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Probes:
    """What the service tells of itself.

    `healthy` and `ready` name a problem in words, or "" when all is well; `moved` is the Unix time
    at which the main loop and housekeeping had both come round. `news` is something else as soon as
    there may be something new to be seen, and None while that cannot be told.
    """

    healthy: Callable[[], str]
    ready: Callable[[], str]
    moved: Callable[[], float]
    news: Callable[[], object | None]
