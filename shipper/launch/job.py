"""The job as a child: its signals, stops and end are those that it would have without lens-ship.

The job stays in the process group that the caller gave this process, so it has the terminal, and
gets what is sent to the group. What is sent to this process alone is forwarded. Which of the two it
was is known from a third process in the group that only waits, the `Witness`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import NoReturn

_STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
FORWARDED = {
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGTSTP, signal.SIGCONT),
}
AWAITED = {*FORWARDED, signal.SIGCHLD, signal.SIGALRM}
# Python ignores these two. The job has the default again.
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
# A scheduler may signal the processes of a job one after the other.
_SETTLE_SECONDS = 0.05


class Witness:
    """A process of this group that holds every signal back until it is asked."""

    def __init__(self) -> None:
        """Fork it. All signals must be blocked already; this process has one thread."""
        (asked, self._ask), (self._answers, answer) = os.pipe(), os.pipe()
        if os.fork() == 0:
            self._wait(asked, answer)
        os.close(asked)
        os.close(answer)

    def take(self) -> set[int]:
        """The signals that it has got since the last call; none once it is gone."""
        try:
            os.write(self._ask, b"?")
            return set(os.read(self._answers, 128))
        except OSError:
            return set()

    def _wait(self, asked: int, answer: int) -> NoReturn:
        """Until the other process has ended, whose pipes it must not hold open."""
        for number in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), number)
        for number in inherited():
            os.close(number)
        os.close(self._ask)
        os.close(self._answers)
        while os.read(asked, 1):
            got = signal.sigpending()
            for one in got:
                signal.sigwait({one})
            os.write(answer, bytes([0, *got]))
        os._exit(0)


class JobProcess:
    """The command. Signals are blocked here from the start on, and awaited by the caller."""

    def __init__(self, command: list[str], environ: Mapping[str, str]) -> None:
        """Start it.

        Raises:
            OSError: it cannot be started.
        """
        self.status: int | None = None  # as of waitpid
        # Some callers ignore it. Then the kernel reaps a child, and its end is not reported.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*AWAITED, *_STOPS})
        everything = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        mine = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
        self._witness = Witness()
        signal.pthread_sigmask(signal.SIG_SETMASK, mine)
        self._of_group: set[int] = set()
        self._stops: set[int] = set()  # stop signals that this process has got too
        self.pid = os.posix_spawnp(
            command[0], command, environ, setsigmask=before, setsigdef=IGNORED_BY_PYTHON
        )
        # A reader at the other end of a pipe sees the end of the job, not that of this process.
        for number in (0, 1):
            os.dup2(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), number)

    def forward(self, number: int) -> None:
        """Pass on a signal that this process has got, unless the whole group has got it."""
        time.sleep(_SETTLE_SECONDS)
        again = None
        while again != (again := {number} & signal.sigpending()):  # not while another one comes
            self._of_group |= self._witness.take()
        if number in _STOPS:
            self._stops.add(number)
        if number in self._of_group:
            self._of_group.discard(number)
            if again:  # which the witness holds as one with the first
                signal.sigwait(again)
        elif self.status is None:
            os.kill(self.pid, number)

    def changed(self, status: int) -> None:
        """Its status, as waitpid has returned it: it has ended, or was stopped."""
        if not os.WIFSTOPPED(status):
            self.status = status
            return
        number = os.WSTOPSIG(status)
        if number in _STOPS and number in {*self._stops, *signal.sigpending()}:
            # The shell waits for this process to stop.
            self._stops.clear()
            os.kill(os.getpid(), number)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
            signal.pthread_sigmask(signal.SIG_BLOCK, {number})

    def leave(self) -> NoReturn:
        """End as the job did: with its code, or by the signal that killed it."""
        status = self.status or 0
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        if not os.WIFSIGNALED(status):
            os._exit(os.WEXITSTATUS(status))
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the job has left one
        with contextlib.suppress(OSError, ValueError):
            if number != signal.SIGKILL:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
            os.kill(os.getpid(), number)
        os._exit(128 + number)  # process 1 of a container cannot kill itself


def reap() -> Iterator[tuple[int, int]]:
    """Pid and status of children that have ended or stopped; adopted ones of a container, too."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG | os.WUNTRACED))[0]:
            yield found


def inherited() -> list[int]:
    """Descriptors of the caller that a child of this process would inherit, without the first 3."""
    numbers = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one of the listing
            if int(name) > 2 and os.get_inheritable(int(name)):
                numbers.append(int(name))
    return numbers
