"""The commit, branch and origin of the checkout that training runs in, read as files.

Rules:
- The program is never run: it may ask for credentials, take locks, or wait for a network.
- The nearest ``.git`` above the working directory is meant, be it a directory, or the file that a
  work tree or submodule has in its place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from spooler.detection.view import View

MOST_PARENTS = 32

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_ORIGIN = re.compile(r"^\[remote \"origin\"\][^\[]*?^\s*url\s*=\s*(\S+)", re.MULTILINE)
_NO_CHECKOUT: Mapping[str, str] = {}


def look(view: View) -> Mapping[str, str]:
    """Return ``git_commit``, ``git_branch`` and ``git_repo`` as far as they are known."""
    own = _own_directory(view, view.cwd())
    head = view.read(f"{own}/HEAD") if own else ""
    if not head:
        return _NO_CHECKOUT
    shared = _beside(own, view.read(f"{own}/commondir")) or own
    origin = _ORIGIN.search(view.read(f"{shared}/config"))
    reference = head.removeprefix("ref: ") if head.startswith("ref: ") else ""
    return {
        "git_commit": _commit(view, (own, shared), reference) if reference else _checked(head),
        "git_branch": reference.removeprefix("refs/heads/"),
        "git_repo": origin.group(1) if origin else "",
    }


def _own_directory(view: View, start: str) -> str:
    place = start
    for _ in range(MOST_PARENTS):
        if not place:
            return ""
        link = view.read(f"{place}/.git")
        if link.startswith("gitdir: "):
            return _beside(place, link.removeprefix("gitdir: "))
        if view.exists(f"{place}/.git/HEAD"):
            return f"{place}/.git"
        place = os.path.dirname(place) if place != "/" else ""
    return ""


def _commit(view: View, places: tuple[str, str], reference: str) -> str:
    for place in places:
        commit = _checked(view.read(f"{place}/{reference}"))
        if commit:
            return commit
    packed = view.read(f"{places[1]}/packed-refs")
    found = re.search(rf"^([0-9a-f]+) {re.escape(reference)}$", packed, re.MULTILINE)
    return _checked(found.group(1)) if found else ""


def _checked(text: str) -> str:
    return text if _COMMIT.fullmatch(text) else ""


def _beside(place: str, path: str) -> str:
    return os.path.normpath(os.path.join(place, path)) if path else ""
