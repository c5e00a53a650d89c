"""The status in a terminal: the summary, the totals, the sinks, then the worst spools.

Nothing wraps in 80 columns. What does not fit is cut at its end, names before numbers. No meaning
is in a colour alone.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from shipper.humanize import by_reason, counted, duration, sanitize, short, size, time_of_day
from shipper.status.model import SinkStatus, SpoolStatus, Status
from shipper.status.summary import HealthState, Summary
from shipper.tables import Column, cells, fitted

WORST = 10
_MARKS = {
    HealthState.HEALTHY: ("●", "bold green"),
    HealthState.DEGRADED: ("◐", "bold yellow"),
    HealthState.ACTION_REQUIRED: ("▲", "bold red"),
}
_STATES = {"ok": "green", "paused": "yellow", "partly paused": "yellow"}
_SINK_COLUMNS = (
    Column("sink", gives=True),
    Column("backlog", right=True),
    Column("bytes", right=True, rank=2),
    Column("oldest", right=True),
    Column("delivered", right=True, rank=3),
    Column("rate", right=True, rank=1),
    Column("dead", right=True, rank=5),
    Column("dropped", right=True, rank=5),
    Column("state"),
)
_SPOOL_COLUMNS = (
    Column("spool", gives=True),
    Column("workload", gives=True, rank=1, empty=""),
    Column("rank", right=True, rank=2, empty=""),
    Column("backlog", right=True),
    Column("oldest", right=True),
    Column("dead", right=True, rank=3, empty="0"),
    Column("dropped", right=True, rank=3, empty="0"),
    Column("state"),
)


def render(
    status: Status, summary: Summary, *, width: int, everything: bool = False
) -> RenderableType:
    """The whole screen of `width` columns; with `everything`, all spools instead of the worst."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    mark, style = _MARKS[summary.level]
    for line in (summary.headline, *summary.also):
        grid.add_row(Text(mark, style=style), Text(line))
    parts: list[RenderableType] = [grid, _service(status), Text()]
    if status.spools or status.heartbeat:
        parts += [_totals(status), Text(), _sinks(status, width), *_last_errors(status)]
    losses = [Text(line) for line in _losses(status)]
    parts += [Text(), *losses] if losses else []
    return Group(*parts, *_spools(status, width, everything=everything))


def _service(status: Status) -> Table:
    heartbeat, now = status.heartbeat, status.time
    if heartbeat is None:
        text = "running, no heartbeat yet" if status.running else "never run"
    elif status.running:
        text = f"lens-ship {heartbeat.version}, pid {heartbeat.pid}"
        text += f", since {time_of_day(heartbeat.started, now)}"
        text += f", {heartbeat.address}" if heartbeat.address else ""
        text += f", no HTTP port: {heartbeat.problem}" if heartbeat.problem else ""
    elif heartbeat.stopped:
        text = f"stopped at {time_of_day(heartbeat.stopped, now)}"
    else:
        text = f"not running, unclean exit, last heartbeat at {time_of_day(heartbeat.beat, now)}"
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row("", Text("service", style="dim"), Text(text, style="dim"))
    grid.add_row("", Text("spools", style="dim"), Text(status.root, style="dim"))
    return grid


def _totals(status: Status) -> Text:
    disk = status.disk
    text = Text()
    text.append(f"{status.pending:,}", style="bold").append(" records pending, about ")
    text.append(size(status.pending_bytes), style="bold").append(", oldest ")
    text.append(duration(status.age(status.oldest)), style="bold")
    text.append(f"\n{counted(len(status.spools), 'spool')}, {status.writing:,} being written, ")
    text.append(size(disk.used) + (f" of {size(disk.limit)}" if disk.limit else ""))
    return text.append(f" on disk, {size(disk.free)} free" if disk.size else " on disk")


def _sinks(status: Status, width: int) -> Table:
    rows = []
    for sink in status.sinks:
        state = sink.state if status.running else "no service"
        style = _STATES.get(state, "bold red") if status.running else "dim"
        rows.append(
            cells(
                sink.sink,
                short(sink.pending),
                size(sink.pending_bytes) if sink.pending else "0",
                duration(status.age(sink.oldest)),
                short(sink.delivered),
                "-" if sink.rate is None else f"{sink.rate:,.{int(sink.rate < 100)}f}/s",
                short(sum(sink.dead_letters.values())),
                short(sum(sink.dropped.values())),
                Text(state, style=style),
            )
        )
    return fitted(_SINK_COLUMNS, rows, width)


def _last_errors(status: Status) -> list[RenderableType]:
    """The most urgent outage of each sink, ongoing or past."""
    return [
        Padding(_last_error(sink, status), (0, 0, 0, 2), expand=False)
        for sink in status.sinks
        if sink.outages
    ]


def _last_error(sink: SinkStatus, status: Status) -> Text:
    outage = sink.outages[0]
    ongoing = outage.until is None and status.running
    since = f"since {time_of_day(outage.since, status.time)}"
    when = since if outage.until is None else f"until {time_of_day(outage.until, status.time)}"
    workload = f", workload {sanitize(outage.workload, 80)}" if outage.workload else ""
    return Text(
        f"{sink.sink}: {'error' if ongoing else 'last error'} {outage.reason} {when}{workload}:"
        f" {sanitize(' '.join(outage.detail.split()), 1000)}",
        style="" if ongoing else "dim",
        no_wrap=True,
        overflow="ellipsis",
    )


def _losses(status: Status) -> list[str]:
    """What will not arrive without an operator, or at all."""
    lines = []
    for sink in status.sinks:
        if sink.dead_letters:
            lines.append(f"{sink.sink}: dead letters: {by_reason(sink.dead_letters)}")
        if sink.dropped:
            lines.append(f"{sink.sink}: dropped: {by_reason(sink.dropped)}")
        if sink.rejected_values:
            rejected = f"{sink.rejected_values:,} values rejected"
            lines.append(f"{sink.sink}: {rejected} within requests that were accepted")
        if sink.skipped_values:
            lines.append(f"{sink.sink}: {sink.skipped_values:,} values skipped, not numeric")
    if status.producer_dropped:
        lines.append(f"dropped by producer: {by_reason(status.producer_dropped)}")
    return lines


def _spools(status: Status, width: int, *, everything: bool) -> list[RenderableType]:
    shown = status.worst_first
    if not everything:
        shown = [one for one in shown if _is_bad(one)][:WORST]
    if not shown:
        return []
    rows = [
        cells(
            spool.spool,
            spool.workload,
            "" if spool.rank is None else str(spool.rank),
            short(spool.pending),
            duration(status.age(spool.oldest)),
            short(spool.dead_letters),
            short(spool.dropped),
            Text(spool.state, style="bold red" if spool.problem else ""),
        )
        for spool in shown
    ]
    parts: list[RenderableType] = [Text(), fitted(_SPOOL_COLUMNS, rows, width)]
    for spool in shown:
        problem = spool.problem.replace(f"{status.root}/", "")
        parts += (
            [Padding(Text(sanitize(problem, 1000), style="red"), (0, 0, 0, 2))] if problem else []
        )
    more = len(status.spools) - len(shown)
    if more:
        parts.append(Text(f"and {more:,} more (--all shows them)", style="dim"))
    return parts


def _is_bad(spool: SpoolStatus) -> bool:
    return bool(spool.problem or spool.pending or spool.dead_letters or spool.dropped)
