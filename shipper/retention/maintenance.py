"""The one thread that walks the root and tidies up: a folder that holds it up holds up no other.

The main thread answers signals and the service manager and never looks into a tenant's folder.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Housekeeping:
    """Calls `work` again and again, after as many seconds as it returns or once woken.

    `told` is called after each time, and when `work` has failed.
    """

    def __init__(self, work: Callable[[], float], told: Callable[[], None]) -> None:
        self.thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._work = work
        self._told = told
        self._last: Callable[[], None] | None = None  # what ends it
        self._woken = threading.Event()
        self._error: Exception | None = None

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def wake(self) -> None:
        """There is work now; from any thread."""
        self._woken.set()

    def check(self) -> None:
        """Raise what `work` or `last` has raised, which ended the thread."""
        if self._error is not None:
            raise self._error

    def end(self, last: Callable[[], None], *, within: float) -> bool:
        """Call `last` after the work under way, and end; whether that came within the seconds."""
        self._last = last
        self._woken.set()
        self.thread.join(max(0.0, within))
        return not self.thread.is_alive()

    def _run(self) -> None:
        try:
            while self._last is None:
                self._woken.clear()
                seconds = self._work()
                self._told()
                self._woken.wait(max(0.001, seconds))
            self._last()
        except Exception as error:  # noqa: BLE001 - the main thread raises it
            self._error = error
            self._told()
