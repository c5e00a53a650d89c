"""The threads that give queues their turns.

Each sink has its own, so that no sink waits for another. Half as many more serve the queues whose
last request timed out: however many of those there are, the others keep their workers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from shipper.delivery.queue import DeliveryQueue, QueueKey
from shipper.delivery.scheduler import Scheduler

PoolKey = tuple[str, bool]  # sink, whether the last requests of its queues timed out


def pool_of(key: QueueKey, queues: Mapping[QueueKey, DeliveryQueue]) -> PoolKey:
    """The worker pool of a queue."""
    return key[0], queues[key].is_slow()


class Workers:
    """`count` threads for each sink that is served, and half as many for its slow queues."""

    def __init__(
        self,
        *,
        scheduler: Scheduler[QueueKey],
        count: int,
        turn: Callable[[QueueKey], None],
        after: Callable[[], None],
    ) -> None:
        """`turn` must not raise; `after` is called when a queue has been released."""
        self._scheduler = scheduler
        self._served: dict[str, None] = {}  # sinks that have queues
        self._count = count
        self._turn = turn
        self._after = after
        self._threads: dict[PoolKey, list[threading.Thread]] = {}

    def serve(self, sink: str) -> None:
        """Let the next `start` start the workers of a sink, which has queues now."""
        self._served[sink] = None

    def start(self) -> None:
        """Start the workers of every sink that is served and has no workers yet."""
        for sink in list(self._served):
            for slow, count in ((False, self._count), (True, max(1, self._count // 2))):
                pool = (sink, slow)
                if pool not in self._threads:
                    self._threads[pool] = [self._start(pool, number) for number in range(count)]

    def all(self) -> list[threading.Thread]:
        """All workers; from any thread."""
        return [thread for threads in list(self._threads.values()) for thread in list(threads)]

    def join(self, *, within: float) -> bool:
        """Wait for the workers after the scheduler was closed; whether all ended in time."""
        deadline = time.monotonic() + within
        for thread in self.all():
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self.all())

    def _start(self, pool: PoolKey, number: int) -> threading.Thread:
        sink, slow = pool
        name = f"{sink}{'-slow' * slow}-{number}"
        thread = threading.Thread(target=self._work, args=(pool,), name=name, daemon=True)
        thread.start()
        return thread

    def _work(self, pool: PoolKey) -> None:
        while (key := self._scheduler.take(pool)) is not None:
            try:
                self._turn(key)
            finally:
                self._scheduler.release(key)
                self._after()
