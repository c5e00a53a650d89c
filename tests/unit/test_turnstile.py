"""One at a time goes through, and nobody waits for ever behind one who is stuck."""

from __future__ import annotations

import threading

from shipper.delivery.turnstile import Turnstile

PATIENCE = 60.0


def test_only_one_is_inside() -> None:
    gate, inside, most = Turnstile(wait_seconds=PATIENCE), 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with gate.alone():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert (inside, most) == (0, 1)


def test_who_is_stuck_holds_up_the_next_one_once_and_nobody_after() -> None:
    gate = Turnstile(wait_seconds=0.01)
    entered, stuck = threading.Event(), threading.Event()

    def hang() -> None:
        with gate.alone():
            entered.set()
            stuck.wait(PATIENCE)

    hanging = threading.Thread(target=hang)
    hanging.start()
    assert entered.wait(PATIENCE)
    with gate.alone():
        pass
    patient = Turnstile(wait_seconds=PATIENCE)
    patient._lock = gate._lock  # the same place, from which nobody would go on for a minute
    with patient.alone():
        pass
    stuck.set()
    hanging.join(PATIENCE)
    with patient.alone():
        assert patient._lock.locked(), "what the stuck one gave back is not what is held now"


def test_a_fault_inside_lets_the_next_one_in() -> None:
    gate = Turnstile(wait_seconds=PATIENCE)
    for _ in range(2):
        try:
            with gate.alone():
                raise ValueError
        except ValueError:
            pass
    assert not gate._lock.locked()
