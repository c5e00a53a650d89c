"""Finds the spools below a root, live ones and those whose process is gone, and whose they are.

Where each pod has mounted a folder of its own, named by its uid, that name is the node's word and
what a spool says of its pod is only the pod's: the folder decides.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from shipper.errors import Misplaced
from shipper.logs import about
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

log = logging.getLogger(__name__)

# node_<N>/rank_<R>/<spool id>, and room above it for folders that keep pods apart.
DEPTH = 6
# A uid of the API server, or the hash that a static pod has instead.
_POD_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")


def find_spools(root: Path) -> Iterator[Path]:
    """Directories whose name is a spool id, at most `DEPTH` levels down.

    Links are not followed, and what is in quarantine is no spool any more.
    """
    yield from _below(root, DEPTH)


def pod_directories(root: Path) -> list[Path]:
    """The folders right below `root` that a pod's uid names."""
    try:
        entries = list(os.scandir(root))
    except OSError:
        return []
    return [
        Path(entry.path)
        for entry in entries
        if _POD_UID.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
    ]


def identity_of(reader: Reader, root: Path, *, by_directory: bool) -> Identity:
    """Who wrote a spool below `root`; `by_directory`: the pod is whose folder it lies in.

    Raises:
        Misplaced: the spool lies in no pod's folder.
        NotASpool, NewerFormat, SpoolDamaged, OSError: as for reading.
    """
    identity = reader.identity()
    if not by_directory:
        return identity
    inside = reader.directory.relative_to(root).parts
    if len(inside) < 2 or not _POD_UID.fullmatch(inside[0]):
        raise Misplaced(f"{reader.directory}: it lies in no pod's folder (pod_directories is on)")
    if identity.pod_uid not in ("", inside[0]):
        log.warning(
            "%s: says that it is pod %r; it lies in the folder of pod %s, which counts",
            reader.directory,
            identity.pod_uid[:64],
            inside[0],
            extra=about(spool=identity.spool, path=reader.directory, reason="other-pod"),
        )
    return replace(identity, pod_uid=inside[0])


def _below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        # Gone meanwhile, or another user's: the periodic walk comes by again.
        return
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False) or entry.name == fmt.QUARANTINE_NAME:
            continue
        if fmt.is_spool_id(entry.name):
            yield Path(entry.path)
        elif depth > 1:
            yield from _below(Path(entry.path), depth - 1)
