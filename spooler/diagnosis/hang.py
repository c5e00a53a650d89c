"""When training hangs: no step for so long, told once until steps come again. Pure."""

from __future__ import annotations


class HangWatch:
    """`seconds` without a step are a hang; 0: nothing ever is.

    It begins to count with the first step: how long a program loads and compiles is unknown.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._steps = 0
        self._since: float | None = None  # when the last step was seen
        self._told = False

    def look(self, steps: int, now: float) -> float | None:
        """Seconds without a step, once a hang; None otherwise.

        `steps` is how many there have been, `now` monotonic seconds.
        """
        if steps != self._steps:
            self._steps, self._since, self._told = steps, now, False
        if not self._seconds or self._since is None or self._told:
            return None
        idle = now - self._since
        if idle < self._seconds:
            return None
        self._told = True
        return idle
