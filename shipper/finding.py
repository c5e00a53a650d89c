"""One line of `lens-ship check`: how it stands, what about, and what to do next."""

from __future__ import annotations

from dataclasses import asdict, dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`next` is empty where there is nothing to do."""

    level: str  # OK, WARN or FAIL
    about: str  # a short word: state, spool, disk …
    text: str
    next: str = ""

    def to_map(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def ok(about: str, text: str) -> Finding:
    """As it should be."""
    return Finding(level=OK, about=about, text=text)


def warn(about: str, text: str, next_step: str) -> Finding:
    """It works, and something will not, or not for long."""
    return Finding(level=WARN, about=about, text=text, next=next_step)


def fail(about: str, text: str, next_step: str) -> Finding:
    """It does not work."""
    return Finding(level=FAIL, about=about, text=text, next=next_step)
