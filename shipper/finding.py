"""One finding of `lens-ship check`: its level, its subject, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`about` is one word: state, spool, disk …; `next` is empty where there is nothing to do."""

    level: str  # OK, WARN or FAIL
    about: str
    text: str
    next: str = ""


def ok(about: str, text: str) -> Finding:
    """It works."""
    return Finding(level=OK, about=about, text=text)


def warn(about: str, text: str, next_step: str) -> Finding:
    """It works, but a part does not, or not for long."""
    return Finding(level=WARN, about=about, text=text, next=next_step)


def fail(about: str, text: str, next_step: str) -> Finding:
    """It does not work."""
    return Finding(level=FAIL, about=about, text=text, next=next_step)
