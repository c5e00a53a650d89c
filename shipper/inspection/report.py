"""What was looked at, printed for people; every text goes through `shown`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shipper.humanize import clock, sanitize, size
from shipper.inspection.findings import WRONG, Complaint
from shipper.inspection.segment import Segment
from shipper.inspection.spool import Survey
from shipper.inspection.stats import Run, Tally
from shipper.inspection.strangers import Stranger
from shipper.tables import Column, fitted
from spooler.spool.identity import Identity

_PATH = 4096
_MOST_SEGMENTS = 40  # lines; the middle ones are left out beyond it
_MOST_COMPLAINTS = 100
_MOST_RUNS = 20
_MOST_METRICS = 30
_STYLES = {"damaged": "bold red", "not ours": "bold red", "unreadable": "bold red"}
_STYLES.update({"newer": "yellow", "cut off": "yellow", "open": "green"})


_SURVEY_COLUMNS = (
    Column("spool", gives=True, tail=8),
    Column("rank", right=True, rank=2, spare="-"),
    Column("process"),
    Column("files", right=True, rank=1),
    Column("records", right=True),
    Column("bytes", right=True, rank=3),
    Column("last record"),
    Column("wrong", right=True),
)


def print_survey(survey: Survey, out: Console) -> None:
    """Everything about one spool."""
    _say(out, sanitize(survey.path, _PATH), "bold")
    for label, text in _about(survey):
        _say(out, f"  {label:<10}{text}")
    if survey.segments:
        out.print(_segments(survey.segments))
    _print_tally(survey.tally, out, whole=survey.whole)
    _print_complaints(survey.complaints, out)
    if not survey.is_wrong:
        checked = "every record was read" if survey.whole else "a sample was read: --verify for all"
        _say(out, f"nothing is wrong with it; {checked}", "green")


def print_surveys(surveys: Sequence[Survey], out: Console) -> None:
    """One line for each spool of a root, then what is wrong with any."""
    rows = []
    for one in surveys:
        wrong = sum(complaint.level == WRONG for complaint in one.complaints)
        rank = one.identity.rank if one.identity else None
        rows.append(
            (
                Text(sanitize(one.name)),
                Text("-" if rank is None else str(rank)),
                Text(_life(one)),
                Text(str(len(one.segments))),
                Text(f"{one.records:,}"),
                Text(size(one.bytes)),
                Text(clock(one.times[1])),
                Text(str(wrong), style="bold red" if wrong else ""),
            )
        )
    out.print(fitted(_SURVEY_COLUMNS, rows, out.width))
    for one in surveys:
        _print_complaints([c for c in one.complaints if c.level == WRONG], out)
    total = sum(one.records for one in surveys)
    what = "1 spool" if len(surveys) == 1 else f"{len(surveys)} spools"
    _say(out, f"{what}, {total:,} records, {size(sum(s.bytes for s in surveys))}")


def print_stranger(stranger: Stranger, out: Console) -> None:
    """What it is instead of a spool."""
    _say(out, sanitize(stranger.path, _PATH), "bold")
    _say(out, f"  {sanitize(stranger.what)}")
    if stranger.tally is not None:
        _print_tally(stranger.tally, out, whole=True)
    if stranger.problem:
        _say(out, f"  not all of it can be read: {sanitize(stranger.problem)}", "bold red")
    _say(out, f"  {sanitize(stranger.next, _PATH)}")


def _say(out: Console, text: str, style: str = "") -> None:
    """One line as it is, however wide: paths are for copying."""
    out.print(Text(text, style=style), soft_wrap=True)


def _about(survey: Survey) -> Iterable[tuple[str, str]]:
    who = survey.identity
    if who is not None:
        where = f"pid {who.pid} on {sanitize(who.host)}, lens-ship {sanitize(who.version or '?')}"
        yield "process", f"{_life(survey)} ({where})"
        yield "begun", clock(who.created)
        yield "job", _job(who)
    first, last = survey.seqs
    begin, end = survey.times
    much = f"{survey.records:,} records, {first:,} to {last:,}, {size(survey.bytes)}"
    yield "holds", f"{much}, {clock(begin)} to {clock(end)}"


def _life(survey: Survey) -> str:
    if survey.alive is None:
        return "not known from a segment alone"
    if survey.alive:
        return "alive"
    return "ended" if survey.tally.goodbye else "gone"


def _job(who: Identity) -> str:
    parts = (
        ("workload", who.workload_uid),
        ("pod", who.pod_name or who.pod_uid),
        ("rank", who.rank),
        ("of", who.world_size),
        ("local rank", who.local_rank),
        ("node rank", who.node_rank),
    )
    told = [f"{label} {sanitize(value)}" for label, value in parts if value not in ("", None)]
    return ", ".join(told) or "it does not say"


def _segments(segments: Sequence[Segment]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("segment", "state", "records", "first", "last", "bytes", "from", "to"):
        right = name in ("records", "first", "last", "bytes")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    edge = _MOST_SEGMENTS // 2
    for place, one in enumerate(segments):
        if len(segments) > _MOST_SEGMENTS and edge <= place < len(segments) - edge:
            if place == edge:
                table.add_row("…", f"{len(segments) - 2 * edge} more")
            continue
        table.add_row(
            Text(sanitize(one.path.name)),
            Text(one.state, style=_STYLES.get(one.state, "")),
            f"{one.records:,}",
            f"{one.first:,}",
            f"{one.last:,}",
            size(one.bytes),
            *_span(one),
        )
    return table


def _span(segment: Segment) -> tuple[str, str]:
    """From and to; the date once, where it is the same."""
    begin, end = clock(segment.first_time), clock(segment.last_time)
    return begin, end[11:] if begin[:10] == end[:10] else end


def _print_tally(tally: Tally, out: Console, *, whole: bool) -> None:
    kinds = [f"{count:,} {sanitize(kind, 60)}" for kind, count in sorted(tally.kinds.items())]
    _say(out, f"  {'kinds':<10}{', '.join(kinds) or 'none'}")
    for run in list(tally.runs.values())[:_MOST_RUNS]:
        _say(out, f"  {'run':<10}{_run(run, whole=whole)}")
        _say(out, f"  {'':<10}{_metrics(run)}")
    if len(tally.runs) > _MOST_RUNS:
        more = "or more" if tally.more_runs else "more"
        _say(out, f"  {'':<10}and {len(tally.runs) - _MOST_RUNS} {more} runs")
    for gap in tally.gaps[:_MOST_RUNS]:
        deleted = f", records {gap.first:,} to {gap.last:,}" if gap.first else ""
        text = f"{gap.count:,} records: {sanitize(gap.reason)}{deleted}, told by record {gap.seq:,}"
        _say(out, f"  {'lost':<10}{text}")
    if len(tally.gaps) > _MOST_RUNS:
        _say(out, f"  {'':<10}and {len(tally.gaps) - _MOST_RUNS} more gaps")


def _run(run: Run, *, whole: bool) -> str:
    name = "/".join(sanitize(part, 60) for part in (run.project, run.name) if part)
    steps = "no steps"
    if run.first_step is not None:
        steps = f"{'' if whole else 'about '}steps {run.first_step:,} to {run.last_step:,}"
    end = f"finished, exit code {run.exit_code}" if run.finished else "not finished"
    return f"{sanitize(run.run, 80)}{f' ({name})' if name else ''}: {steps}, {end}"


def _metrics(run: Run) -> str:
    names = sorted(run.metrics)
    told = ", ".join(sanitize(name, 80) for name in names[:_MOST_METRICS])
    left = len(names) - _MOST_METRICS
    more = f" and {left} {'or more' if run.more_metrics else 'more'}" if left > 0 else ""
    return (told or "no metrics") + more


def _print_complaints(complaints: Sequence[Complaint], out: Console) -> None:
    for complaint in complaints[:_MOST_COMPLAINTS]:
        where, what = sanitize(complaint.where, _PATH), sanitize(complaint.what, 500)
        _say(
            out,
            f"{complaint.level}: {where}: {what}",
            "bold red" if complaint.level == WRONG else "yellow",
        )
    if len(complaints) > _MOST_COMPLAINTS:
        _say(out, f"and {len(complaints) - _MOST_COMPLAINTS} more complaints")
