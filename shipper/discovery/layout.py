"""Finds the spools below a root, live ones and those whose process is gone, and whose they are.

Where each pod has mounted a folder of its own, named by its uid, that name is the node's word and
what a spool says of its pod is only the pod's: the folder decides.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from shipper.errors import Misplaced
from shipper.log import fields
from spooler.errors import SpoolDamaged
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

log = logging.getLogger(__name__)

# node_<N>/rank_<R>/<spool id>, and room above it for folders that keep pods apart.
DEPTH = 6
# Entries that are looked at below one folder of the root; a node has some thousand at most.
MOST_ENTRIES = 100_000
# What a file system keeps at its top for itself; a root may be the top of one.
_OF_THE_DISK = "lost+found"
Closed = Callable[[Path, OSError], None]
# A uid of the API server, or the hash that a static pod has instead.
_POD_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")


def find_spools(root: Path, closed: Closed | None = None) -> Iterator[Path]:
    """Directories whose name is a spool id, at most `DEPTH` levels down.

    Links are not followed, and what is in quarantine is no spool any more. Of what lies below one
    folder of the root, the first `MOST_ENTRIES` entries are looked at. `closed` is told of each
    folder on the way, the root included, that is there and cannot be looked into.
    """
    for folder in _folders(root, [MOST_ENTRIES], closed):
        left = [MOST_ENTRIES]  # for each, so that one tenant cannot use up another's
        if fmt.is_spool_id(folder.name):
            yield folder
        else:
            yield from _below(folder, DEPTH - 1, left, closed)
        if left[0] < 0:
            tell_once(folder)


def why_closed(root: Path) -> str:
    """Why nothing can be found below `root`; "" where it is open, or not there."""
    try:
        os.scandir(root).close()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return closed_text(error)
    return ""


def closed_text(error: OSError) -> str:
    """What is wrong with a folder that cannot be looked into."""
    if isinstance(error, NotADirectoryError):
        return "is no folder"
    return f"cannot be looked into: {error.strerror}"


def noting(found: dict[str, str]) -> Closed:
    """For `find_spools`: puts each closed folder into `found`, with what is wrong with it."""

    def note(folder: Path, error: OSError) -> None:
        found[str(folder)] = closed_text(error)

    return note


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
    if reader.place != Path(os.path.realpath(root)) / reader.directory.relative_to(root):
        why = "a folder on the way to it has become a symbolic link"
        raise SpoolDamaged(str(reader.directory), 0, why)
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
            extra=fields(spool=identity.spool, path=reader.directory, reason="other-pod"),
        )
    return replace(identity, pod_uid=inside[0])


def is_bare(directory: Path) -> bool:
    """Whether nothing at all is in a folder, as far as it can be looked into."""
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def tell_once(folder: Path) -> None:
    """Say that a folder holds more than is looked at."""
    if folder in _told:
        return
    _told.add(folder)
    log.warning(
        "%s: holds more than %d files and folders; spools beyond those are not found until some"
        " are gone",
        folder,
        MOST_ENTRIES,
        extra=fields(path=folder, reason="too-many-files"),
    )


_told: set[Path] = set()


def _folders(folder: Path, left: list[int], closed: Closed | None) -> list[Path]:
    """The folders in one, by name, as long as there are entries `left` to look at."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                left[0] -= 1
                if left[0] < 0:
                    break
                if entry.is_dir(follow_symlinks=False) and entry.name != fmt.QUARANTINE_NAME:
                    found.append(Path(entry.path))
    except FileNotFoundError:
        pass  # gone meanwhile, or not there yet
    except OSError as error:
        # Perhaps for a moment, perhaps another user's: the periodic walk comes by again.
        if closed is not None and folder.name != _OF_THE_DISK:
            closed(folder, error)
    return sorted(found, key=lambda path: path.name)


def _below(folder: Path, depth: int, left: list[int], closed: Closed | None) -> Iterator[Path]:
    for path in _folders(folder, left, closed):
        if fmt.is_spool_id(path.name):
            yield path
        elif depth > 1:
            yield from _below(path, depth - 1, left, closed)
