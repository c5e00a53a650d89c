"""The one background thread of the training side: rotation, sealing and evidence happen here."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable

from spooler import async_exceptions, stderr

TICK_SECONDS = 1.0

Task = Callable[[], bool]


class BackgroundThread:
    """Runs `maintain` about once a second and when woken, and tasks that were handed to it.

    A task that returns True is run again at the next tick; one that raises is said once and
    dropped. The thread is a daemon: the interpreter's end never waits for it beyond `finish`.
    """

    def __init__(self, maintain: Callable[[], None]) -> None:
        self._seconds = TICK_SECONDS  # between two calls of `maintain`
        self._maintain = maintain
        self._tasks: deque[Task] = deque()
        self._bell = threading.Lock()  # taken until it rings
        self._bell.acquire()
        self._ending = False
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Start the thread unless it runs; False when the system gives none now.

        A later try may succeed, unless the interpreter is ending.
        """
        if self._thread is None and threading.main_thread().is_alive():
            thread = threading.Thread(target=self._run, name="lens-ship-recorder", daemon=True)
            if self._thread is not None:  # a signal handler has come here meanwhile
                return True
            self._thread = thread
            handled = sys.exc_info()[1]
            try:
                thread.start()
            except async_exceptions.ours(RuntimeError) as error:
                self._thread = None
                stderr.report_once(
                    "thread",
                    f"lens-ship cannot start its thread ({error}). Recording continues. The start"
                    " is retried every second. Until then the training thread seals segments.",
                )
            except BaseException as error:  # noqa: BLE001 - raised on below
                self.cancel()
                raise async_exceptions.uncovered(error, handled)  # noqa: B904
        return self.is_running

    @property
    def is_running(self) -> bool:
        return self._thread is not None

    def cancel(self) -> None:
        """End, whether or not an interrupted `start` has started the thread."""
        self._ending = True
        self.wake()

    def wake(self) -> None:
        """Have `maintain` called now rather than at the next tick.

        One call into C, unlike `Event.set`: a signal handler may come here from anywhere, itself
        included, and must not find a lock that the interrupted call holds.
        """
        with async_exceptions.suppress(RuntimeError):  # it is released
            self._bell.release()

    def keep_pace(self, seconds: float) -> None:
        """Call `maintain` every `seconds` if that is more often than usual; 0 changes nothing."""
        if 0 < seconds < TICK_SECONDS:
            self._seconds = seconds
            self.wake()

    def add(self, task: Task) -> None:
        """Run `task` soon, after those added before it."""
        self._tasks.append(task)
        self.wake()

    def finish(self, last: Task, seconds: float) -> None:
        """Run what is waiting, then `last`, and end; give up waiting after `seconds`."""
        self._tasks.append(last)
        self._ending = True
        self.wake()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            ending = self._ending
            self._run_tasks()
            if ending:
                return
            self._maintain()
            self._bell.acquire(timeout=self._seconds)

    def _run_tasks(self) -> None:
        for _ in range(len(self._tasks)):
            task = self._tasks.popleft()
            try:
                again = task()
            except Exception as error:  # noqa: BLE001 - border with training code: nothing escapes
                stderr.report_once(f"task {error!r}", f"lens-ship: {type(error).__name__}: {error}")
                continue
            if again:
                self._tasks.append(task)
