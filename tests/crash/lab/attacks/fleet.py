"""A simulated fleet: what thousands of nodes do to a receiver that restarts after an outage.

`bench/fleet.py` simulates it on a virtual clock with the product's own backoff and timeouts. Every
sixth trial is the whole fleet, ten thousand nodes after an hour. The others are smaller. Each
simulates two receivers: one with capacity to spare, and a smaller one that needs longer for a turn
than the first read timeout.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path

from bench.fleet import Fleet, Result, World
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.verdict import Findings, Verdict

WHOLE = 6  # of so many trials one is the whole fleet
HERD = 2.0  # requests in the busiest ten seconds, as a multiple of the capacity
LATE = 1.5  # time to deliver the backlog, as a multiple of the least possible
WASTE = 0.1  # share of the work of the receiver whose sender had disconnected


def trial(seed: int, work: Path) -> Verdict:
    """Simulate both with the nodes and the outage of this seed."""
    del work  # nothing of it touches a disk
    logging.disable()
    rng, found = random.Random(seed), Findings()
    nodes, outage = rng.randrange(600, 1200), rng.uniform(900, 1500)
    roomy = (
        World(seed=seed)
        if seed % WHOLE == WHOLE - 1
        else World(nodes=nodes, capacity=nodes / 20, outage=outage, seed=seed)
    )
    # Two thirds of this one's receiver are taken by what is recorded meanwhile.
    slow = World(nodes=nodes, capacity=nodes / 60, outage=outage, seed=seed)
    easy, hard = Fleet(roomy).run(), Fleet(slow).run()
    found.check(
        easy.peak_of_ten <= HERD,
        "G15",
        f"{roomy.nodes} nodes come back as a herd: {easy.peak_of_ten:.1f} times the capacity",
    )
    for world, result in ((roomy, easy), (slow, hard)):
        _check(world, result, found)
        found.faults += world.nodes
    found.worst("busiest ten seconds, times the capacity", easy.peak_of_ten)
    return found.verdict()


def _check(world: World, result: Result, found: Findings) -> None:
    about = f"{world.nodes} nodes on {world.capacity:.0f} requests/s"
    late = result.drained / result.ideal
    found.check(late <= LATE, "G15", f"{about}: the backlog takes {late:.2f} times the least")
    found.check(
        result.wasted <= WASTE, "G15", f"{about}: {result.wasted:.0%} of its work is wasted"
    )
    found.worst("time to deliver the backlog, times the least", late)
    found.worst("wasted work, percent", 100 * result.wasted)


ATTACK = Attack(
    meaning="thousands of nodes reconnect to a receiver after an outage, on a virtual clock",
    promises=("G15",),
    trial=trial,
    trials=Trials(short=1, usual=3, long=12),
    catches=("backoff-without-jitter", "fixed-read-timeout"),
)
