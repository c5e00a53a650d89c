"""Counts what the story has left behind, shows it, and judges."""

from __future__ import annotations

from collections.abc import Mapping

from shipper.demo import collected, count, gather
from shipper.demo.collected import Collected
from shipper.demo.processes import WORKLOAD, Place
from shipper.demo.screen import Screen
from shipper.demo.story import Told


def report(told: Told, place: Place, screen: Screen) -> int:
    """Both tables, the curve and the last word; the exit code."""
    screen.still()
    received = gather.received(place.received, WORKLOAD)
    steps = _steps(told, place, received, screen)
    lines = _collected(told, place, screen)
    screen.loss(count.curve(received.writes, "loss"), told.restart)
    good = told.drained and steps.written > 0 and steps.is_clean and lines.is_clean
    screen.result(_sentence(steps, lines, told), good=good)
    return 0 if good else 1


def _steps(told: Told, place: Place, received: count.Received, screen: Screen) -> count.Account:
    recorded = gather.spools(place.spool)
    first, second = (
        gather.source(one.child.name, one.child.pid, one.report, recorded)
        for one in (told.first, told.second)
    )
    accounts = {source.name: count.account(source, received) for source in (first, second)}
    total = count.total(accounts.values())
    screen.table("steps of", [*accounts.items(), ("both", total)])
    for remark in _remarks(total, count.shared(first, second)):
        screen.note(remark)
    return total


def _collected(told: Told, place: Place, screen: Screen) -> count.Account:
    """Of what collectors collected; without a master, what is recorded is as far as it gets."""
    recorded = gather.reports(place.spool)
    lives = [gather.stored_reports(place.stored(n)) for n in range(1, told.master_lives + 1)]
    found = Collected(
        lines=gather.log_lines(place.training_log),
        stacks_asked=told.stacks_asked,
        recorded=recorded,
        stored=lives[-1] if lives else [one for process in recorded for one in process],
    )
    accounts = {"log lines": collected.log_lines(found), "stacks": collected.stacks(found)}
    screen.table("collected", [*accounts.items()], has_total=False, arrived=bool(lives))
    if lives:
        kept = f"{len(lives[0]):,} reports" if lives[0] else "nothing"
        screen.note(f"Delivered: what the master has now; the one killed had kept {kept}.")
        if any(map(collected.goodbyes, lives)):
            screen.note("The master was also told that training 1 ended without a goodbye.")
    else:
        screen.note(_nowhere(gather.given_up(told.audited)))
    return count.total(accounts.values())


def _nowhere(given_up: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(given_up.items()))
    return f"Collected reports have nowhere to go; `lens-ship audit` has them: {reasons}."


def _remarks(total: count.Account, shared: int) -> list[str]:
    """What a careful reader of the table may ask."""
    remarks = []
    if shared:
        remarks.append(f"Trained twice: {shared:,} steps after the checkpoint; both count.")
    if total.recorded > total.written:
        extra = total.recorded - total.written
        remarks.append(f"Recorded, but killed before wandb.log returned: {extra:,}.")
    if total.duplicated:
        remarks.append("Duplicated: a kill fell between delivery and its acknowledgement.")
    return remarks


def _sentence(steps: count.Account, lines: count.Account, told: Told) -> str:
    if not steps.written:
        return "Nothing was logged, so nothing is proved."
    if not told.drained:
        return "Not everything was sent: something is still in the spool."
    for what, one in (("steps", steps), ("lines and stacks", lines)):
        if not one.is_clean:
            return (
                f"{one.lost:,} {what} are lost, {one.changed:,} changed, {one.disordered:,} out"
                " of order."
            )
    sentence = (
        f"Nothing is lost: all {steps.written:,} steps whose wandb.log returned are at the"
        " receiver, in their order, with every name and value as it was logged"
    )
    if told.master_lives:
        return f"{sentence}; every line of the log and the stacks are at the training master."
    return f"{sentence}."
