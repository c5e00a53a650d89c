"""The overview in a terminal: the sentence, the totals, the sinks, then the worst spools.

Rules: nothing wraps in 80 columns; what does not fit is cut at its end, names before numbers; the
meaning is never in a colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from shipper.humanize import size
from shipper.status.model import SinkStatus, SpoolStatus, Status
from shipper.status.summary import Summary, badness, clock, counted, duration, short
from shipper.tables import Column, fitted

WORST = 10
_MARKS = {
    "ok": ("●", "bold green"),
    "waiting": ("◐", "bold yellow"),
    "attention": ("▲", "bold red"),
}
_SINK_COLUMNS = (
    Column("sink", gives=True),
    Column("behind", right=True),
    Column("bytes", right=True, rank=2),
    Column("oldest", right=True),
    Column("delivered", right=True, rank=3),
    Column("rate", right=True, rank=1),
    Column("dead", right=True, rank=5),
    Column("lost", right=True, rank=5),
    Column("state"),
)
_SPOOL_COLUMNS = (
    Column("spool", gives=True),
    Column("workload", gives=True, rank=1, empty=""),
    Column("rank", right=True, rank=2, empty=""),
    Column("behind", right=True),
    Column("oldest", right=True),
    Column("dead", right=True, rank=3, empty="0"),
    Column("lost", right=True, rank=3, empty="0"),
    Column("state"),
)


def render(
    overview: Status, verdict: Summary, *, width: int, everything: bool = False
) -> RenderableType:
    """The whole screen of so many columns; with `everything`, all spools instead of the worst."""
    parts: list[RenderableType] = [_headline(verdict), _service(overview), Text()]
    if overview.spools or overview.sign:
        parts += [_totals(overview), Text(), _sinks(overview, width)]
        parts += [Padding(line, (0, 0, 0, 2), expand=False) for line in _last_troubles(overview)]
    parts += _losses(overview)
    parts += _spools(overview, width, everything=everything)
    return Group(*parts)


def _headline(verdict: Summary) -> Table:
    mark, style = _MARKS[verdict.level]
    grid = Table.grid(padding=(0, 1, 0, 0))
    for line in (verdict.headline, *verdict.also):
        grid.add_row(Text(mark, style=style), Text(line))
    return grid


def _service(overview: Status) -> Table:
    sign, now = overview.sign, overview.time
    if sign is None:
        told = "running, no sign of life yet" if overview.running else "never run"
    elif overview.running:
        told = f"lens-ship {sign.version}, pid {sign.pid}, since {clock(sign.started, now)}"
        told += f", {sign.address}" if sign.address else ""
        told += f", no page: {sign.problem}" if sign.problem else ""
    elif sign.stopped:
        told = f"stopped at {clock(sign.stopped, now)}"
    else:
        told = f"not running; last seen at {clock(sign.beat, now)}, ended without a goodbye"
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row("", Text("service", style="dim"), Text(told, style="dim"))
    grid.add_row("", Text("spools", style="dim"), Text(overview.root, style="dim"))
    return grid


def _totals(overview: Status) -> Text:
    disk = overview.disk
    live = sum(spool.state == "writing" for spool in overview.spools)
    text = Text()
    text.append(f"{overview.pending:,}", style="bold").append(" records behind, about ")
    text.append(size(overview.pending_bytes), style="bold").append(", oldest ")
    text.append(duration(overview.age(overview.oldest)), style="bold")
    text.append(f"\n{counted(len(overview.spools), 'spool')}, {live:,} being written, ")
    text.append(size(disk.used) + (f" of {size(disk.limit)}" if disk.limit else ""))
    text.append(f" on disk, {size(disk.free)} free" if disk.size else " on disk")
    return text


def _sinks(overview: Status, width: int) -> Table:
    rows = []
    for sink in overview.sinks:
        state, style = _state(sink, overview)
        rows.append(
            (
                Text(sink.sink),
                Text(short(sink.pending)),
                Text(size(sink.pending_bytes) if sink.pending else "0"),
                Text(duration(overview.age(sink.oldest))),
                Text(short(sink.delivered)),
                Text("-" if sink.rate is None else f"{sink.rate:,.{int(sink.rate < 100)}f}/s"),
                Text(short(sum(sink.dead.values()))),
                Text(short(sum(sink.lost.values()))),
                Text(state, style=style),
            )
        )
    return fitted(_SINK_COLUMNS, rows, width)


def _state(sink: SinkStatus, overview: Status) -> tuple[str, str]:
    if not overview.running:
        return "no service", "dim"
    if sink.paused is not None:
        return ("alarm", "bold red") if sink.paused.alarm else ("paused", "yellow")
    return ("partly", "yellow") if sink.present else ("ok", "green")


def _last_troubles(overview: Status) -> list[Text]:
    """The first trouble of each sink, present or past."""
    lines = []
    for sink in overview.sinks:
        for trouble in sink.troubles[:1]:
            lasts = trouble.until is None and overview.running
            when = f"since {clock(trouble.since, overview.time)}"
            if trouble.until is not None:
                when = f"until {clock(trouble.until, overview.time)}"
            whose = f", workload {trouble.workload}" if trouble.workload else ""
            lines.append(
                Text(
                    f"{sink.sink}: {'error' if lasts else 'last error'} {trouble.reason}"
                    f" {when}{whose}: {' '.join(trouble.detail.split())}",
                    style="" if lasts else "dim",
                    no_wrap=True,
                    overflow="ellipsis",
                )
            )
    return lines


def _losses(overview: Status) -> list[RenderableType]:
    """What will not arrive by itself, by reason."""
    lines = []
    for sink in overview.sinks:
        if sink.dead:
            lines.append(f"{sink.sink}: dead letters: {told(sink.dead)}")
        if sink.lost:
            lines.append(f"{sink.sink}: lost: {told(sink.lost)}")
        if sink.left_out:
            lines.append(f"{sink.sink}: values left out, being no numbers: {sink.left_out:,}")
    if overview.dropped:
        lines.append(f"never written by training: {told(overview.dropped)}")
    return [Text(), *(Text(line) for line in lines)] if lines else []


def told(reasons: Mapping[str, int]) -> str:
    """Counts by reason in one line."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))


def _spools(overview: Status, width: int, *, everything: bool) -> list[RenderableType]:
    ranked = sorted(overview.spools, key=badness)
    shown = ranked if everything else [s for s in ranked if _is_bad(s)][:WORST]
    if not shown:
        return []
    rows = [
        (
            Text(spool.spool),
            Text(spool.workload),
            Text("" if spool.rank is None else str(spool.rank)),
            Text(short(spool.pending)),
            Text(duration(overview.age(spool.oldest))),
            Text(short(spool.dead)),
            Text(short(spool.lost)),
            Text(spool.state, style="bold red" if spool.problem else ""),
        )
        for spool in shown
    ]
    parts: list[RenderableType] = [Text(), fitted(_SPOOL_COLUMNS, rows, width)]
    for spool in shown:
        problem = spool.problem.replace(f"{overview.root}/", "")
        parts += [Padding(Text(problem, style="red"), (0, 0, 0, 2))] if problem else []
    left = len(overview.spools) - len(shown)
    if left:
        parts.append(Text(f"and {left:,} more (--all shows them)", style="dim"))
    return parts


def _is_bad(spool: SpoolStatus) -> bool:
    return bool(spool.problem or spool.pending or spool.dead or spool.lost)
