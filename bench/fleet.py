"""A fleet comes back: what ten thousand nodes do to a receiver that was away for an hour.

    python bench/fleet.py [--nodes 10000] [--capacity 500] [--outage 3600] [--seed 7]

A discrete-event simulation on a virtual clock. What waits, retries and splits is the product's own
code: `shipper.delivery.sink_state` decides when a node tries again, `shipper.sinks.outcome` what an
answer means, `AdaptiveTimeout` how long a node waits for an answer. Simulated are the nodes'
recording (a step a second each) and the receiver: it works on `capacity` requests of 100 steps a
second, 64 at once, takes the rest in the order of their arrival, and drops a request whose client
has hung up, as the telemetry-processor does.

It prints how many requests arrive against what the receiver can take (a herd would be many times as
many), how long the backlog takes against the least possible, how much work was done twice, and how
evenly the nodes were served.
"""

from __future__ import annotations

import argparse
import heapq
import logging
import random
import sys
from collections import Counter, deque
from dataclasses import dataclass, field

from shipper.delivery.sink_state import SinkState
from shipper.errors import Unreachable
from shipper.http_client import Answer
from shipper.sinks.outcome import Disposition, classify_failure
from shipper.sinks.processor.classify import classify
from shipper.sinks.processor.client import AdaptiveTimeout

BATCH_STEPS = 100
FLUSH_SECONDS = 5.0
READ_SECONDS = 30.0
AT_ONCE = 64
_OK = Answer(status=200, headers={}, body=b'{"meta":{"code":2000},"data":{}}')


@dataclass(frozen=True, kw_only=True)
class World:
    """What is simulated; times are seconds, `capacity` full requests a second."""

    nodes: int = 10_000
    capacity: float = 500.0
    outage: float = 3600.0
    steps_per_second: float = 1.0
    seed: int = 7


@dataclass(frozen=True, kw_only=True)
class Result:
    """What happened after the receiver came back."""

    peak: float  # requests in the busiest second, as a multiple of the capacity
    peak_of_ten: float  # the same over ten seconds
    drained: float  # seconds until the last node had nothing old left
    ideal: float  # the same for a receiver that is never idle and does nothing twice
    wasted: float  # share of the receiver's work whose client had hung up
    fairness: float  # Jain's index of what the nodes had delivered at half of that time


@dataclass(kw_only=True)
class Node:
    """One node with one workload: its recorded steps are a function of time."""

    sink: SinkState
    lane: SinkState
    delivered: int = 0
    batches: deque[int] = field(default_factory=deque)
    tries: int = 0
    allowance: AdaptiveTimeout
    sent_at: float = 0.0
    request: int = 0  # number of the one in flight; 0: none
    done_at: float = 0.0


class Fleet:
    """The simulation; `run` plays it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._now = 0.0
        self._events: list[tuple[float, int, str, int, int]] = []
        self._order = 0
        random.seed(world.seed)
        self._nodes = [
            Node(
                sink=SinkState("sink", self._clock),
                lane=SinkState("lane", self._clock),
                allowance=AdaptiveTimeout(base=READ_SECONDS, seconds=READ_SECONDS),
            )
            for _ in range(world.nodes)
        ]
        self._step_seconds = AT_ONCE / (world.capacity * BATCH_STEPS)
        self._queue: deque[tuple[int, int]] = deque()  # node, number of its request
        self._busy = 0
        self._arrivals: Counter[int] = Counter()
        self._worked = self._wasted = 0.0
        self._snapshots: list[tuple[float, list[int]]] = []
        self._left = set(range(world.nodes))
        self._requests = 0

    def run(self) -> Result:
        """Play until every node has delivered what it had when the receiver came back."""
        world = self._world
        for number in range(world.nodes):
            self._at(random.uniform(0, FLUSH_SECONDS), "send", number)
        self._at(world.outage, "look", 0)
        while self._left:
            self._now, _, what, node, request = heapq.heappop(self._events)
            getattr(self, f"_{what}")(node, request)
        old = world.nodes * world.steps_per_second * world.outage
        drained = self._now - world.outage
        return Result(
            peak=max(self._arrivals.values()) / world.capacity,
            peak_of_ten=self._peak_of(10) / 10 / world.capacity,
            drained=drained,
            ideal=old / (world.capacity * BATCH_STEPS),
            wasted=self._wasted / self._worked,
            fairness=self._fairness(world.outage + drained / 2),
        )

    # --- nodes ------------------------------------------------------------------------------------

    def _send(self, number: int, _: int) -> None:
        node = self._nodes[number]
        if not node.batches:
            pending = int(self._now * self._world.steps_per_second) - node.delivered
            if pending <= 0:
                self._at(self._now + FLUSH_SECONDS, "send", number)
                return
            node.batches.append(min(BATCH_STEPS, pending))
        node.tries += 1
        if self._now < self._world.outage:
            self._fail(number, Unreachable("refused", "nobody there", sent=False))
            return
        self._requests += 1
        node.request = self._requests
        self._arrivals[int(self._now)] += 1
        node.sent_at = self._now
        self._at(self._now + node.allowance.seconds, "hang_up", number, node.request)
        self._queue.append((number, node.request))
        self._serve()

    def _fail(self, number: int, failure: Unreachable) -> None:
        node = self._nodes[number]
        outcome = classify_failure(failure, tries=node.tries)
        if outcome.disposition is Disposition.SPLIT and node.batches[0] > 1:
            whole = node.batches.popleft()
            node.batches.extendleft((whole - whole // 2, whole // 2))
            node.tries = 0
        elif not failure.sent:
            node.batches.clear()  # what was recorded meanwhile goes along the next time
        health = node.sink if outcome.scope == "sink" else node.lane
        self._at(self._now + health.failed(outcome), "send", number)

    def _hang_up(self, number: int, request: int) -> None:
        node = self._nodes[number]
        if node.request == request:
            node.request = 0
            node.allowance.missed()
            self._fail(number, Unreachable("timeout", "no answer", sent=True))

    def _answer(self, number: int, request: int) -> None:
        node = self._nodes[number]
        self._busy -= 1
        steps = node.batches[0] if node.batches else BATCH_STEPS
        if node.request != request:
            self._wasted += steps  # hung up in the middle of it
        elif classify(_OK, items=None, tries=node.tries).disposition is Disposition.DELIVERED:
            node.request = node.tries = 0
            node.allowance.answered(self._now - node.sent_at)
            node.delivered += node.batches.popleft()
            node.sink.succeeded()
            node.lane.succeeded()
            if node.delivered >= self._world.outage * self._world.steps_per_second:
                self._left.discard(number)
            behind = self._now * self._world.steps_per_second - node.delivered
            soon = 0.0 if node.batches or behind >= BATCH_STEPS else FLUSH_SECONDS
            self._at(self._now + soon, "send", number)
        self._worked += steps
        self._serve()

    # --- the receiver -----------------------------------------------------------------------------

    def _serve(self) -> None:
        while self._queue and self._busy < AT_ONCE:
            number, request = self._queue.popleft()
            node = self._nodes[number]
            if node.request == request:
                self._busy += 1
                self._at(
                    self._now + node.batches[0] * self._step_seconds, "answer", number, request
                )

    # --- the clock, and what is measured ----------------------------------------------------------

    def _look(self, _: int, __: int) -> None:
        self._snapshots.append((self._now, [node.delivered for node in self._nodes]))
        self._at(self._now + 10.0, "look", 0)

    def _at(self, when: float, what: str, node: int, request: int = 0) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, what, node, request))

    def _clock(self) -> float:
        return self._now

    def _peak_of(self, seconds: int) -> int:
        first, last = min(self._arrivals), max(self._arrivals)
        return max(
            sum(self._arrivals[second + offset] for offset in range(seconds))
            for second in range(first, last + 1)
        )

    def _fairness(self, when: float) -> float:
        delivered = min(self._snapshots, key=lambda snapshot: abs(snapshot[0] - when))[1]
        squares = sum(steps * steps for steps in delivered)
        return sum(delivered) ** 2 / (len(delivered) * squares) if squares else 1.0


def main() -> int:
    """Simulate and print; 1 when the fleet behaves worse than is promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("nodes", 10_000), ("seed", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("capacity", 500.0), ("outage", 3600.0)):
        parser.add_argument(f"--{name}", type=float, default=default)
    given = parser.parse_args()
    logging.disable()
    result = Fleet(World(**vars(given))).run()
    print(
        f"{given.nodes} nodes, {given.outage:.0f} s without a receiver that takes"
        f" {given.capacity:.0f} requests/s, seed {given.seed}"
    )
    print(
        f"  busiest second     {result.peak:.2f} times the capacity,"
        f" ten seconds {result.peak_of_ten:.2f} times"
    )
    print(
        f"  backlog delivered  in {result.drained:.0f} s, least possible {result.ideal:.0f} s:"
        f" {result.drained / result.ideal:.2f} times"
    )
    print(f"  work done twice    {result.wasted:.1%}")
    print(f"  fairness           {result.fairness:.3f} (1: all nodes alike)")
    return 0 if result.peak <= 2 and result.drained <= 1.5 * result.ideal else 1


if __name__ == "__main__":
    sys.exit(main())
