"""Finds the workload of a pod that does not know its own, while the pod is alive.

A pod's name is looked up by the processor among the pods that run at that moment: what is sent
after the job has ended is refused. So the workload's uid is asked for once, remembered in the
ledger, and sent from then on. A pod that several workloads own (a job and its parent) is left to
the processor, which stores for all of them, as long as it lives; then the first one is taken.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from shipper.log import fields
from shipper.sinks import Memory
from spooler.spool.identity import Identity

log = logging.getLogger(__name__)

# The processor's own map is renewed every 20 seconds; asking more often finds nothing new.
ASK_SECONDS = 15.0
_SEPARATOR = " "


class Workloads:
    """The workloads of pods, for all spools. Safe for several threads.

    `ask` returns the processor's map from pod name to a list of (workload name, uid), or None when
    it cannot be had now.
    """

    def __init__(
        self, ask: Callable[[Identity], Mapping[str, Any] | None], now: Callable[[], float]
    ) -> None:
        self._ask = ask
        self._now = now
        self._ask_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def complete(self, identity: Identity, memory: Memory, *, alive: bool) -> Identity:
        """`identity` with its workload's uid, if that is known or can be found out now."""
        if identity.workload_uid or not identity.pod_name:
            return identity
        remembered = memory.workload(identity.spool)
        uids = remembered.split(_SEPARATOR) if remembered else self._find(identity, memory)
        if not uids or (len(uids) > 1 and alive):
            return identity
        return replace(identity, workload_uid=uids[0])

    def _find(self, identity: Identity, memory: Memory) -> list[str]:
        with self._lock:
            if self._now() < self._ask_at.get(identity.spool, 0.0):
                return []
            self._ask_at[identity.spool] = self._now() + ASK_SECONDS
        uids = _uids((self._ask(identity) or {}).get(identity.pod_name))
        if uids:
            memory.remember_workload(identity.spool, _SEPARATOR.join(uids))
            log.info(
                "workload of a pod found",
                extra=fields(spool=identity.spool, pod=identity.pod_name, workload=" ".join(uids)),
            )
        return uids


def _uids(entry: Any) -> list[str]:
    """The uids of a list of (name, uid); anything else holds none."""
    if not isinstance(entry, list):
        return []
    pairs = [pair for pair in entry if isinstance(pair, list) and len(pair) == 2]
    return [uid for _, uid in pairs if isinstance(uid, str) and uid and _SEPARATOR not in uid]
