"""What a deliberately broken build is made of: text of the product, replaced by a mistake."""

from __future__ import annotations

from dataclasses import dataclass


class StalePatch(Exception):
    """A patch does not apply to the product as it is."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Replace `old`, which occurs once in `file`, by `new`."""

    file: str
    old: str
    new: str

    def applied(self, text: str) -> str:
        """The file's text with the mistake in it.

        Raises:
            Stale: `old` does not occur exactly once.
        """
        if text.count(self.old) != 1:
            raise StalePatch(
                f"{self.file} holds {text.count(self.old)} times, not once: {self.old!r}"
            )
        return text.replace(self.old, self.new)


@dataclass(frozen=True, kw_only=True)
class BrokenBuild:
    """One mistake."""

    meaning: str
    patches: tuple[Patch, ...]
