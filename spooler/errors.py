"""Every exception of this package, each saying when it is raised; none reaches training code."""

from __future__ import annotations


class SpoolError(Exception):
    """Base of everything below; also what a caller catches who only wants to go on."""


class SpoolUnavailable(SpoolError):
    """A record cannot be committed now. `reason` is a short stable word for counters.

    Reasons: `disk-full`, `quota` (of the disk, or of a file's size), `read-only`, `io-error`,
    `cannot-open`, `not-permitted`, `error`; `gone` when the files were deleted, `descriptor` when
    the program has closed a descriptor of theirs; `cap` when the spool has reached its own limit,
    `root-cap` when all spools together have.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class NotASpool(SpoolError):
    """The file or directory is not one that this package wrote."""


class NewerFormat(SpoolError):
    """The file says it has a format version above the one this reader knows."""


class SpoolDamaged(SpoolError):
    """A file of the spool cannot be read at all, or not beyond a position; it names both.

    `lasting` says that no later attempt will have more success.
    """

    def __init__(self, path: str, position: int, reason: str, *, lasting: bool = False) -> None:
        super().__init__(f"{path}: after record {position}: {reason}")
        self.reason = reason
        self.lasting = lasting


class BodyUnreadable(SpoolError):
    """A record's body does not decode though its checksum may hold."""

    reason = "unreadable"


class BodyTooLarge(BodyUnreadable):
    """A record's body would take more memory than its readers have."""

    reason = "too-large"


class MalformedBody(BodyUnreadable):
    """A record's body decodes, but is not one of its kind; the text says which field and why."""

    reason = "malformed"


class ReportRefused(SpoolError):
    """A diagnosis report that no master could take; `reason` is a short stable word for counters.

    Reasons: `report-shape`, `report-timestamp`, `report-type`, `report-content`, `report-node`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
