"""Cheap processes to kill: forked from one that has imported everything.

A child writes a number to a pipe for each call that has returned, so that its parent knows what was
promised when it died. The parent has no threads, so that forking it is safe.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.kit.processor import Receiver
from tests.kit.processor.store import Store
from tests.kit.spools import PATIENCE_SECONDS

Tell = Callable[[int], None]


class Child:
    """A child that does `work` until it ends or is killed; `told` are the numbers it has told."""

    def __init__(self, work: Callable[[Tell], None]) -> None:
        self.told: list[int] = []
        self.has_ended = False
        self._pipe, writing = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._pipe)
            _live(work, lambda number: _write(writing, number))
        os.close(writing)

    def watch(self, seconds: float) -> None:
        """Let it live that long, or to its end."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self._pipe], [], [], left)[0] and not self._take():
                return

    def wait_for_first(self) -> bool:
        """Wait until it has told something or has ended; False if it does neither."""
        if self.told:
            return True
        is_heard = bool(select.select([self._pipe], [], [], PATIENCE_SECONDS)[0])
        if is_heard:
            self._take()
        return is_heard

    def kill(self) -> int:
        """End it with SIGKILL, wherever it is; what it told before counts. The wait status."""
        os.kill(self.pid, signal.SIGKILL)
        return self.end()

    def end(self) -> int:
        """Wait for its end; the wait status."""
        while self._take():
            pass
        os.close(self._pipe)
        return os.waitpid(self.pid, 0)[1]

    def _take(self) -> bool:
        chunk = os.read(self._pipe, 65536)
        self.has_ended = not chunk
        self.told += [number for (number,) in struct.iter_unpack("<q", chunk)]
        return bool(chunk)


def _write(pipe: int, number: int) -> None:
    os.write(pipe, struct.pack("<q", number))


def _live(work: Callable[[Tell], None], tell: Tell) -> None:
    try:
        work(tell)
    except BaseException:  # noqa: BLE001 - whatever it is, this child ends here
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class ReceiverProcess:
    """A receiver in a process of its own, so that the parent of children needs no thread."""

    def __init__(self, path: Path, make: Callable[..., Receiver] = Receiver) -> None:
        """`make` is given the path."""
        self.store = Store(path=path)
        ready, telling = os.pipe()
        ending, self._end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._end)
            with make(path=path) as receiver:
                os.write(telling, receiver.url.encode())
                os.close(telling)
                os.read(ending, 1)  # also at the end of the pipe: the parent is dead
            os._exit(0)
        os.close(telling)
        os.close(ending)
        self.url = os.read(ready, 256).decode()
        os.close(ready)

    def pause(self, *, over: bool = False) -> None:
        """Stop it with SIGSTOP; let it go on if `over`."""
        os.kill(self._pid, signal.SIGCONT if over else signal.SIGSTOP)

    def kill(self) -> None:
        """End it with SIGKILL; `store` may be read afterwards."""
        os.kill(self._pid, signal.SIGKILL)
        os.close(self._end)
        os.waitpid(self._pid, 0)

    def stop(self) -> None:
        """End it; `store` may be read afterwards."""
        self.pause(over=True)
        os.write(self._end, b".")  # children that were begun since then hold this end, too
        os.close(self._end)
        os.waitpid(self._pid, 0)
