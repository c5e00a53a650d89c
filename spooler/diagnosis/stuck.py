"""Stacks on request and of stuck interpreters: a signal, a timer in C, and what they have written.

`spooler.collectors.dump` says how. When this process gets to run after a signal, it reports its own
stacks, which are more readable, instead of what the C code has written.
"""

from __future__ import annotations

import logging
import os

from spooler import async_exceptions, config
from spooler.collectors.dump import DumpFile, left_behind
from spooler.collectors.stack import StackCollector

logger = logging.getLogger("lens_ship.diagnosis")

# The timer fires later than the agent's own look, which is to be preferred.
_TIMER_FACTOR = 1.1


class Stuck:
    """The signal and the timer that the settings ask for; does nothing where they ask for none."""

    def __init__(self, settings: config.CollectorSettings, stack: StackCollector) -> None:
        self._settings = settings
        self._stack = stack
        self._file: DumpFile | None = None
        self._pid = 0

    @property
    def _timer(self) -> float:
        return self._settings.hang_seconds * _TIMER_FACTOR if self._settings.hang_dump else 0.0

    def begin(self) -> None:
        """Install what the settings ask for."""
        root = config.from_environ(os.environ).root
        wanted = self._settings.stack_signal or self._timer
        if root is None or self.is_on or not wanted:
            return
        try:
            self._file = DumpFile(root)
            self._pid = os.getpid()
            if self._settings.stack_signal:
                self._file.on_signal(self._settings.stack_signal)
        except (OSError, ValueError) as error:
            if async_exceptions.is_async(error):
                raise
            logger.warning("Stacks on request are not in effect: %s", error)

    @property
    def is_on(self) -> bool:
        """Whether anything is installed in this process."""
        return self._file is not None and self._pid == os.getpid()

    def look(self) -> None:
        """Set the timer anew, and report when something has asked for the stacks."""
        if self._file is None or not self.is_on:
            return
        if self._timer:
            self._file.in_seconds(self._timer)
        written = self._file.news()
        if not written:
            return
        if written.startswith("Timeout"):
            taken = self._stack.store_data(
                {"as written while no Python code could run": written},
                why=f"the interpreter was blocked for {self._timer:.0f} s",
            )
        else:
            taken = self._stack.store_data(self._stack.collect_data(), why="asked for by a signal")
        if taken:
            self._file.reported()

    def look_behind(self) -> None:
        """Report what processes before this one have written and could not report."""
        root = config.from_environ(os.environ).root
        if root is None:
            return
        for name, written in left_behind(root):
            self._stack.store_data(
                {f"process {name}, now gone": written},
                why="written by a process that was stuck when it ended",
            )

    def end(self) -> None:
        """Take back what was installed."""
        with async_exceptions.suppress(OSError, RuntimeError, ValueError):
            if self._file is not None and self.is_on:
                self._file.close(timer=bool(self._timer))
        self._file = None
