"""What all threads are doing: stacks as readable text, of this process and of others.

Taken periodically, on a signal, and when training makes no progress any more. The collector reads
the threads of this process from its own thread. The main thread may wait in a C call, as long as
that has released the interpreter's lock. `spooler.collectors.stack_dump` is for when it has not.
Other processes are read by py-spy, where it is installed.

A frame is a file, a line's number and a function. The text of the line is not read from the file:
that may be a pipe, or on a file server that does not answer, and would block the reader for good.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any

from spooler import config
from spooler.collectors import Collector
from spooler.collectors.turn import NodeTurn, name_on_node
from spooler.dlrover.metric import DiagnosisDataType
from spooler.spool.identity import Identity

_FRAMES_LIMIT = 200  # of one thread: the innermost
_THREADS_LIMIT = 500
_TEXT_LIMIT = 1024 * 1024


class StackCollector(Collector):
    """Collects the stacks of this process, and those of `pids` where py-spy is installed.

    `pids` may be a function that is asked each time. Data is a map from a title (a thread, or a
    process) to its stack. With `in_turn` one rank of a job on a node is enabled at a time.
    """

    name = "stack"
    title = "stack traces"
    data_type = DiagnosisDataType.STACK_TRACE

    def __init__(
        self, pids: Iterable[int] | Callable[[], Iterable[int]] = (), *, in_turn: bool = False
    ) -> None:
        super().__init__()
        self._pids = pids
        self._turn = NodeTurn() if in_turn else None

    def is_enabled(self) -> bool:
        """Whether no other rank of this node has the turn."""
        name = "" if self._turn is None else name_on_node(config.environ())
        return self._turn is None or not name or self._turn.take(name)

    def keep_turn(self) -> None:
        """Show that this process still collects, or ask whether another one still does."""
        self.is_enabled()

    def close(self) -> None:
        """Let another rank have the turn."""
        if self._turn is not None:
            self._turn.close()

    def collect_data(self) -> dict[str, str]:
        stacks = own_stacks()
        pids = tuple(self._pids() if callable(self._pids) else self._pids)
        if pids:
            from spooler.collectors import pyspy

            for pid in pids:
                stacks[f"process {pid}"] = pyspy.stacks_of(pid)
        return stacks

    def store_data(self, data: Any, *, why: str = "") -> bool:
        """Report stacks, a map from titles to texts or lists of lines; `why` is told first."""
        if not isinstance(data, Mapping):
            return self._refuse_type(data, "a map of stacks")
        return self._report(self._format_stacks(data, why)) if data else False

    def _format_stacks(self, data: Mapping[Any, Any], why: str = "") -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S %z")
        rank = config.read(Identity, config.environ())["rank"] or 0
        head = f"Stacks of process {os.getpid()} (rank {rank}), {stamp}"
        parts = [f"{head}: {why}" if why else head]
        for title, stack in data.items():
            text = "\n".join(map(str, stack)) if isinstance(stack, list | tuple) else str(stack)
            parts.append(f"--- {title}\n{text.rstrip()}")
        return ("\n\n".join(parts) + "\n")[:_TEXT_LIMIT]


def own_stacks() -> dict[str, str]:
    """The stacks of all Python threads of this process, the main thread first."""
    threads = {thread.ident: thread for thread in threading.enumerate()}
    main = threading.main_thread().ident
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != main)
    found = {}
    for ident, frame in frames[:_THREADS_LIMIT]:
        thread = threads.get(ident)
        name = thread.name if thread is not None else "not made by threading"
        native = getattr(thread, "native_id", None)
        daemon = ", daemon" if thread is not None and thread.daemon else ""
        found[f"thread {name!r} ({native or ident}{daemon})"] = _stack(frame)
    return found


def _stack(frame: FrameType | None) -> str:
    """Outermost call first, as in a traceback."""
    found: list[str] = []
    while frame is not None and len(found) < _FRAMES_LIMIT:
        code = frame.f_code
        found.append(f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}\n')
        frame = frame.f_back
    return "".join(reversed(found))
