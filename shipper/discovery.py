"""Finds the spools below a root: live ones, and those whose process is gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from spooler.spool import format as fmt

# node_<N>/rank_<R>/<spool id>, and room above it for folders that keep pods apart.
DEPTH = 6


def find_spools(root: Path) -> Iterator[Path]:
    """Directories whose name is a spool id, at most `DEPTH` levels down.

    Links are not followed, and what is in quarantine is no spool any more.
    """
    yield from _below(root, DEPTH)


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
