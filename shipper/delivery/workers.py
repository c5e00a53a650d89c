"""The threads that give lanes their turns: each sink has its own, so that none waits for another.

Half as many again stand apart, for lanes whose last request was not answered in time: however many
of those there are, the others keep their workers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from shipper.delivery.queue import Lane
from shipper.delivery.scheduler import Schedule

LaneKey = tuple[str, str]  # sink, what the sink sends one at a time
Queue = tuple[str, bool]  # sink, whether its lanes are kept waiting by their receiver


def queue_of(key: LaneKey, lanes: Mapping[LaneKey, Lane]) -> Queue:
    """Where a lane stands in the schedule."""
    return key[0], lanes[key].is_slow()


class Workers:
    """`count` threads for each sink that has lanes, and half as many apart."""

    def __init__(
        self,
        *,
        schedule: Schedule[LaneKey],
        lanes: Mapping[LaneKey, Lane],
        count: int,
        turn: Callable[[LaneKey], None],
        after: Callable[[], None],
    ) -> None:
        """`turn` must not raise; `after` is called when a lane has been given back."""
        self._schedule = schedule
        self._lanes = lanes
        self._count = count
        self._turn = turn
        self._after = after
        self._threads: dict[Queue, list[threading.Thread]] = {}

    def start(self) -> None:
        """Put the workers of every sink that has lanes to work, where they are not yet."""
        for sink in {sink for sink, _ in list(self._lanes)}:
            for slow, count in ((False, self._count), (True, max(1, self._count // 2))):
                queue = (sink, slow)
                if queue not in self._threads:
                    self._threads[queue] = [self._start(queue, number) for number in range(count)]

    def all(self) -> list[threading.Thread]:
        """Every worker there is; from any thread."""
        return [thread for threads in list(self._threads.values()) for thread in list(threads)]

    def went_home(self, *, within: float) -> bool:
        """Whether all of them have, `within` seconds of the end of the schedule."""
        deadline = time.monotonic() + within
        for thread in self.all():
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self.all())

    def _start(self, queue: Queue, number: int) -> threading.Thread:
        sink, slow = queue
        name = f"{sink}{'-slow' * slow}-{number}"
        thread = threading.Thread(target=self._work, args=(queue,), name=name, daemon=True)
        thread.start()
        return thread

    def _work(self, queue: Queue) -> None:
        while (key := self._schedule.take(queue)) is not None:
            try:
                self._turn(key)
            finally:
                self._schedule.give_back(key)
                self._after()
