"""Every exception of this package, each saying when it is raised and what to do next."""

from __future__ import annotations


class ShipperError(Exception):
    """Base of everything below; the command line prints its text and exits with `exit_code`."""

    exit_code = 1


class ConfigError(ShipperError):
    """Settings that cannot be used; names every one that is wrong."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StateInUse(ShipperError):
    """Another lens-ship has locked the state directory."""

    exit_code = 3


class StateUnusable(ShipperError):
    """The state directory or database cannot be opened or written."""

    exit_code = 4


class StateNewer(StateUnusable):
    """The database has had migrations that this version does not know; it stays as it is."""


class LaunchFailed(ShipperError):
    """A job cannot have a spool root or a state: it runs without lens-ship."""


class Misplaced(ShipperError):
    """A spool lies where no pod's folder is, though folders decide; it is whole and stays there."""


class Unreachable(ShipperError):
    """No answer came back. `sent` tells whether the receiver may have processed the request."""

    def __init__(self, reason: str, detail: str, *, sent: bool) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.sent = sent


class StoreFailed(ShipperError):
    """The dev server cannot open, read or write its database."""

    exit_code = 2


class DemoFailed(ShipperError):
    """The demo cannot go on: a process ended by itself or did not become ready."""
