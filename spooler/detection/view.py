"""What a source of evidence may look at: the run, the environment, the loaded modules, files.

Rules:
- Looking changes nothing. A module is read through its own dictionary, fetched past any
  ``__getattr__`` or ``__getattribute__``, because lazy modules import on attribute access.
- A file that is missing, unreadable, or not a regular file reads as empty text. Only regular
  files are read (those of /proc and /sys are), so that a pipe or a device never blocks a look.
- Paths are written as on the real machine ("/proc/meminfo") and resolved under ``files``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

READ_LIMIT = 64 * 1024
"""Bytes read of one file; every file looked at is far smaller."""

NAMES_LIMIT = 20_000
"""Names read of one directory; a data set beside the training script may hold millions."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What wandb knows of the run."""

    project: str
    name: str
    id: str
    config: Mapping[str, Any]
    tags: tuple[str, ...]
    names: Mapping[str, Any] = field(default_factory=dict)  # see `spooler.hooks.names`


@dataclass(frozen=True, kw_only=True)
class View:
    """One look at the training process and its machine."""

    run: RunFacts
    environ: Mapping[str, str]
    modules: Mapping[str, object]
    files: Path

    def loaded(self, name: str) -> bool:
        """Say whether a module was imported; one that waits for its first use was not."""
        module = self.modules.get(name)
        kind = type(module)
        lazy = kind.__name__ == "_LazyModule" and kind.__module__ == "importlib.util"
        return module is not None and not lazy

    def attributes(self, name: str) -> Mapping[str, object]:
        """Return the dictionary of a loaded module, or an empty one."""
        if not self.loaded(name):
            return {}
        try:
            found = object.__getattribute__(self.modules[name], "__dict__")
        except AttributeError:
            return {}
        return found if isinstance(found, dict) else {}

    def attribute_text(self, module: str, name: str) -> str:
        """Return a text attribute of a loaded module; empty when absent or not text."""
        found = self.attributes(module).get(name)
        # By its type: `isinstance` would ask its `__class__`, which may run anything.
        return str.__str__(found) if issubclass(type(found), str) else ""

    def variable(self, *names: str) -> str:
        """Return the first of these environment variables that says something."""
        for name in names:
            value = self.environ.get(name, "").strip()
            if value:
                return value
        return ""

    def exists(self, path: str) -> bool:
        return os.path.exists(_under(self.files, path))

    def read(self, path: str) -> str:
        """Return the start of a regular file as stripped text."""
        try:
            descriptor = os.open(
                _under(self.files, path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except (OSError, ValueError):
            return ""
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return ""
            return os.read(descriptor, READ_LIMIT).decode("utf-8", "replace").strip("\0 \r\n\t")
        except OSError:
            return ""
        finally:
            os.close(descriptor)

    def search(self, path: str, pattern: str) -> str:
        """Return what the group of a pattern matches in a file; empty where nothing does."""
        found = re.search(pattern, self.read(path), re.MULTILINE)
        return found[1] if found else ""

    def names(self, path: str) -> list[str]:
        """Return the sorted names in a directory; none when it cannot be read."""
        return list_names(self.files, path)

    def cwd(self) -> str:
        """Return the working directory; empty when it was deleted."""
        try:
            return os.getcwd()
        except OSError:
            return ""


def list_names(files: Path, path: str) -> list[str]:
    """Return the sorted names in a directory under a root; none when it cannot be read."""
    try:
        with os.scandir(_under(files, path)) as entries:
            return sorted(entry.name for entry in islice(entries, NAMES_LIMIT))
    except (OSError, ValueError):
        return []


def _under(files: Path, path: str) -> str:
    return os.path.join(files, path.lstrip("/"))
