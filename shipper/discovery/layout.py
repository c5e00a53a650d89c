"""Where spools may lie below the root, and which pod wrote them.

With `pod_directories`, each pod has mounted a directory of its own, named by its uid. The node
guarantees that name. The pod in a spool is only the claim of the pod, so the directory decides.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from shipper.errors import Misplaced
from shipper.log import fields
from spooler.errors import SpoolDamaged
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

log = logging.getLogger(__name__)

# node_<N>/rank_<R>/<spool id>, and levels above it for directories that keep pods apart.
DEPTH = 6
# Entries that are read below one directory of the root; a node has some thousand at most.
MOST_ENTRIES = 100_000
# Belongs to the file system; a root may be the top of one.
_OF_THE_DISK = "lost+found"
OnUnreadable = Callable[[Path, OSError], None]
# A uid of the API server, or the hash that a static pod has instead.
_POD_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
_logged: set[str] = set()  # directories with too many entries


class TakenDirectory(PermissionError):
    """A user's directory belongs to another user."""

    strerror: str

    def __init__(self, user: int, owner: int) -> None:
        self.user, self.owner = user, owner
        why = f"belongs to user {owner}, so that user {user} cannot record"
        super().__init__(errno.EPERM, why)


def find_spools(root: Path, on_unreadable: OnUnreadable | None = None) -> Iterator[Path]:
    """Directories whose name is a spool id, at most `DEPTH` levels down.

    Links are not followed. The quarantine and the collectors' own directories are left out. Below
    each directory of the root, and in a root that any user can write to, the first `MOST_ENTRIES`
    entries are read. `on_unreadable` gets each
    directory on the way, the root included, that exists and cannot be read, and the directories of
    users that others have made.
    """
    if on_unreadable is not None:
        for taken, problem in taken_directories(root):
            on_unreadable(taken, problem)
    for entry in _directories(str(root), [_most_entries(root)], on_unreadable):
        left = [MOST_ENTRIES]  # for each, so that no tenant uses up the entries of another
        if fmt.is_spool_id(entry.name):
            yield Path(entry.path)
        else:
            yield from _below(entry.path, DEPTH - 1, left, on_unreadable)
        if left[0] < 0 and entry.path not in _logged:
            _logged.add(entry.path)
            log.warning(
                "directory has too many entries, spools beyond the limit are not found",
                extra=fields(path=entry.path, count=MOST_ENTRIES, reason="too-many-files"),
            )


def spools_at(place: Path) -> Iterable[Path]:
    """`place` itself if its name is a spool id, else the spools below it."""
    return [place] if fmt.is_spool_id(place.resolve().name) else find_spools(place)


def _most_entries(root: Path) -> int:
    """Entries of the root itself that are read: all of them, unless any user can make some."""
    try:
        shared = os.stat(root).st_mode & stat.S_IWOTH
    except OSError:
        shared = stat.S_IWOTH
    return MOST_ENTRIES if shared else sys.maxsize


def why_unreadable(root: Path) -> str:
    """Why nothing can be found below `root`; "" where it can be read or does not exist."""
    try:
        os.scandir(root).close()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return unreadable_text(error)
    return ""


def unreadable_text(error: OSError) -> str:
    """What is wrong with a directory that cannot be read, or used."""
    if isinstance(error, TakenDirectory):
        return error.strerror
    if isinstance(error, NotADirectoryError):
        return "is not a directory"
    return f"cannot be read: {error.strerror}"


def collect_unreadable(found: dict[str, str]) -> OnUnreadable:
    """For `find_spools`: stores each unreadable directory in `found`, with what is wrong."""

    def note(directory: Path, error: OSError) -> None:
        found[str(directory)] = unreadable_text(error)

    return note


def taken_directories(root: Path) -> Iterator[tuple[Path, TakenDirectory]]:
    """What has the name of a user's directory in a shared root and belongs to another user.

    Writers refuse it, so that this user cannot record.
    """
    try:
        if not os.stat(root).st_mode & stat.S_ISVTX:
            return
        with os.scandir(root) as entries:
            names = [entry.name for entry, _ in zip(entries, range(MOST_ENTRIES), strict=False)]
    except OSError:
        return
    for name in sorted(names):
        user, path = fmt.user_of(name), root / name
        owner = owner_of(path) if user is not None else user
        if user is not None and owner not in (user, None):
            yield path, TakenDirectory(user, owner or 0)


def owner_of(path: Path) -> int | None:
    """The uid that a path belongs to; None when it is gone."""
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None


def pod_directories(root: Path) -> list[Path]:
    """The directories directly below `root` that are named by a pod's uid."""
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
    """Who wrote a spool below `root`; `by_directory`: the pod is the one whose directory it is in.

    Raises:
        Misplaced: the spool is not in a pod's directory, or its path is not UTF-8.
        NotASpool, NewerFormat, SpoolDamaged, OSError: as for reading.
    """
    try:
        str(reader.directory).encode()
    except UnicodeEncodeError:
        raise Misplaced(f"{reader.directory}: its path is not UTF-8") from None
    if reader.place != Path(os.path.realpath(root)) / reader.directory.relative_to(root):
        why = "a directory on the way to it has become a symbolic link"
        raise SpoolDamaged(str(reader.directory), 0, why)
    identity = reader.identity()
    if not by_directory:
        return identity
    inside = reader.directory.relative_to(root).parts
    if len(inside) < 2 or not _POD_UID.fullmatch(inside[0]):
        raise Misplaced(
            f"{reader.directory}: it is not in a pod's directory (pod_directories is on)"
        )
    if identity.pod_uid not in ("", inside[0]):
        log.warning(
            "spool claims another pod, using the pod of the directory",
            extra=fields(
                spool=identity.spool,
                path=reader.directory,
                claimed=identity.pod_uid[:64],
                pod=inside[0],
                reason="other-pod",
            ),
        )
    return replace(identity, pod_uid=inside[0])


def is_empty(directory: Path) -> bool:
    """Whether a directory can be read and has no entry."""
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _directories(
    directory: str, left: list[int], on_unreadable: OnUnreadable | None
) -> list[os.DirEntry[str]]:
    """The directories in one, by name, as long as there are entries `left` to read."""
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                left[0] -= 1
                if left[0] < 0:
                    break
                if entry.is_dir(follow_symlinks=False) and not fmt.holds_no_spools(entry.name):
                    found.append(entry)
    except FileNotFoundError:
        pass  # deleted meanwhile, or not there yet
    except OSError as error:
        # Perhaps for a moment, perhaps another user's: the periodic scan tries again.
        path = Path(directory)
        if on_unreadable is not None and path.name != _OF_THE_DISK:
            on_unreadable(path, error)
    return sorted(found, key=lambda entry: entry.name)


def _below(
    directory: str, depth: int, left: list[int], on_unreadable: OnUnreadable | None
) -> Iterator[Path]:
    for entry in _directories(directory, left, on_unreadable):
        if fmt.is_spool_id(entry.name):
            yield Path(entry.path)
        elif depth > 1:
            yield from _below(entry.path, depth - 1, left, on_unreadable)
