"""Finds the workload of a pod that does not know its own, while the pod is alive.

A pod's name is looked up by the processor among the pods that run at that moment: what is sent
after the job has ended is refused. So the workload's uid is asked for once, remembered in the
ledger, and sent from then on. Nothing waits for that: until it is known, the pod's name is sent. A
pod that several workloads own (a job and its parent) is left to
the processor, which stores for all of them, as long as it lives; then the first one is taken.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from shipper.errors import ShipperError
from shipper.log import fields
from shipper.sinks import Memory
from spooler.spool.identity import Identity

log = logging.getLogger(__name__)

# The processor's own map is renewed every 20 seconds; asking more often finds nothing new.
ASK_SECONDS = 15.0
_SEPARATOR = " "


def _on_a_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="workloads", daemon=True).start()


class Workloads:
    """The workloads of pods, for all spools. Safe for several threads.

    `ask` returns the map from pod name to a list of (workload name, uid) of the processor at a base
    URL, or None when it cannot be had now. `base` is that of a spool. `start` runs a function on a
    thread of its own.
    """

    def __init__(
        self,
        ask: Callable[[str], Mapping[str, Any] | None],
        base: Callable[[Identity], str],
        now: Callable[[], float],
        start: Callable[[Callable[[], None]], None] = _on_a_thread,
    ) -> None:
        self._ask = ask
        self._base = base
        self._now = now
        self._start = start
        self._ask_at: dict[str, float] = {}  # spool -> monotonic
        self._wanted: dict[str, dict[str, str]] = {}  # base -> spool -> pod; it is being asked
        self._lock = threading.Lock()

    def complete(self, identity: Identity, memory: Memory, *, alive: bool) -> Identity:
        """`identity` with its workload's uid, if that is known or can be found out now."""
        if identity.workload_uid or not identity.pod_name:
            return identity
        uids = memory.workload(identity.spool).split(_SEPARATOR)
        if uids == [""]:
            self._find(identity, memory)
            uids = memory.workload(identity.spool).split(_SEPARATOR)
        if uids == [""] or (len(uids) > 1 and alive):
            return identity
        return replace(identity, workload_uid=uids[0])

    def _find(self, identity: Identity, memory: Memory) -> None:
        """Ask for it soon. One question to a processor answers all that wait for one."""
        base, spool = self._base(identity), identity.spool
        with self._lock:
            if not base or self._now() < self._ask_at.get(spool, 0.0):
                return
            self._ask_at[spool] = self._now() + ASK_SECONDS
            asking = base in self._wanted
            self._wanted.setdefault(base, {})[spool] = identity.pod_name
        if not asking:
            self._start(partial(self._learn, base, memory))

    def _learn(self, base: str, memory: Memory) -> None:
        """Ask and remember the answer; for the spools that come meanwhile, too."""
        pods = self._ask(base) or {}
        with self._lock:
            wanted = self._wanted.pop(base)
        for spool, pod in wanted.items():
            uids = _uids(pods.get(pod))
            if uids:
                with suppress(ShipperError):  # asked for again
                    memory.remember_workload(spool, _SEPARATOR.join(uids))
                values = fields(spool=spool, pod=pod, workload=" ".join(uids))
                log.info("workload of a pod found", extra=values)


def _uids(entry: Any) -> list[str]:
    """The uids of a list of (name, uid); anything else holds none."""
    if not isinstance(entry, list):
        return []
    pairs = [pair for pair in entry if isinstance(pair, list) and len(pair) == 2]
    return [uid for _, uid in pairs if isinstance(uid, str) and uid and _SEPARATOR not in uid]
