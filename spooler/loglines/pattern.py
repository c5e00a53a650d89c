"""An operator's own pattern: the text of a line, with names in braces where numbers stand. Pure.

`step {step}/{} | loss {train/loss} | lr {lr}` finds `step 10/500 | loss 2.5 | lr 3e-4`. It is not a
regular expression: such a one may never end on some line, and Python does not let it be ended,
which would hold up the training process. Names may have any character.
"""

from __future__ import annotations

import re

from spooler.loglines import Row
from spooler.loglines.text import VALUE, value

STEP = "step"
_FIELD = re.compile(r"\{([^{}]*)\}")
_VALUE = re.compile(rf" ?({VALUE})")
_BEGINNINGS = 32  # places of a line that may be the beginning of the pattern
_FIELDS = 64


class UnusableError(ValueError):
    """A pattern cannot be used; the text says why."""


class Pattern:
    """One pattern, a parser as those of the registry.

    Raises:
        UnusableError: it has no field for the step, or is ambiguous.
    """

    SOLE_WRITER = False

    def __init__(self, text: str) -> None:
        parts = _FIELD.split(" ".join(text.split()))
        self._begin, *rest = parts
        self._fields = list(zip(rest[::2], rest[1::2], strict=True))  # name, text that follows
        names = [name for name, _ in self._fields if name]
        self._check(names)
        self.MARKS = (max(self._begin.split(" "), key=len),)

    def _check(self, names: list[str]) -> None:
        texts = (self._begin, *(text for _, text in self._fields))
        if any("{" in text or "}" in text for text in texts):
            raise UnusableError("a brace is not closed, or stands inside another one")
        if not self._begin.strip():
            raise UnusableError("it does not begin with a text, such as `step {step}`")
        if STEP not in names:
            raise UnusableError("it has no {step}")
        if len(set(names)) < len(names) or len(names) == 1 or len(self._fields) > _FIELDS:
            raise UnusableError(f"it needs two to {_FIELDS} names, each once")
        if any(not text for _, text in self._fields[:-1]):
            raise UnusableError("two fields need a text between them")

    def parse(self, line: str) -> Row | None:
        """The numbers of a line; spaces of any length count as one."""
        line = " ".join(line.split())
        at = -1
        for _ in range(_BEGINNINGS):
            at = line.find(self._begin, at + 1)
            if at < 0:
                return None
            found = self._from(line, at + len(self._begin))
            if found is not None:
                return found
        return None

    def _from(self, line: str, at: int) -> Row | None:
        values: dict[str, float] = {}
        for name, text in self._fields:
            if name:
                number = _VALUE.match(line, at)
                if number is None:
                    return None
                values[name], at = value(number[1]), number.end()
                if not line.startswith(text, at):
                    return None
            elif text:
                at = line.find(text, at)
                if at < 0:
                    return None
            at += len(text)
        step = values.pop(STEP)
        return Row(step, values) if type(step) is int else None


def patterns(text: str) -> list[Pattern]:
    """The patterns of a setting, one on each line.

    Raises:
        UnusableError: one cannot be used.
    """
    return [Pattern(line) for line in text.splitlines() if line.strip()]
