"""Which of the processes of a node collects what all of them could."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from spooler import config
from spooler.async_exceptions import ours
from spooler.filetail.checkpoint import Checkpoint, is_lasting
from spooler.spool.identity import Identity, job_of


class NodeTurn:
    """Of the processes of a user with one spool root, one has the turn of a name.

    Another gets it when that one ends, at once, or is silent for `LEASE_SECONDS`. Without a root,
    or where files cannot be locked, each has it.
    """

    def __init__(self) -> None:
        self._held: Checkpoint | None = None

    def take(self, name: str) -> bool:
        """Whether this process has the turn now; call it every few seconds to keep it."""
        root = config.from_environ(os.environ).root
        if root is None:
            return True
        try:
            if self._held is not None and self._held.pid == os.getpid() and self._held.renew():
                return True
            self.close()
            self._held = Checkpoint.take(root, Path("/" + name.replace("/", "_")))
        except ours(OSError) as error:
            return is_lasting(error)
        return self._held is not None

    def is_mine(self) -> bool:
        """Whether no other process has taken it over; ask right before anything is recorded."""
        return self._held is None or self._held.is_mine()

    def close(self) -> None:
        """Let another process have it."""
        held, self._held = self._held, None
        if held is not None:
            held.discard()


def name_on_node(environ: Mapping[str, str]) -> str:
    """A name for the ranks of one job on one node; "" for a process that has no other beside it.

    Pods that share a spool root are nodes of their own.
    """
    place = config.read(Identity, environ)
    if place["local_rank"] is None:
        return ""
    job = job_of(environ) or f"{environ.get('MASTER_ADDR')}:{environ.get('MASTER_PORT')}"
    return f"ranks-{os.uname().nodename}-{place['pod_uid']}-{job}-{place['node_rank'] or 0}"
