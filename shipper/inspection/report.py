"""`lens-ship inspect`: reads what the given paths are and prints it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shipper.discovery.layout import find_spools
from shipper.humanize import clock, counted, json_safe, sanitize, size, to_json
from shipper.importers import Format, formats
from shipper.inspection.findings import ERROR, Problem
from shipper.inspection.segment import InspectedSegment
from shipper.inspection.spool import InspectedSpool, inspect_segment_file, inspect_spool
from shipper.inspection.stats import RecordStats, RunStats
from shipper.tables import Column, console, fitted
from spooler.spool import format as fmt
from spooler.spool import safe_open
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

_MAX_PATH = 4096  # characters
_MAX_SEGMENTS = 40  # lines, without those in the middle
_MAX_PROBLEMS = 100
_MAX_LINES = 20  # of runs and of gaps
_MAX_METRICS = 30
_STYLES = {"damaged": "bold red", "foreign": "bold red", "unreadable": "bold red"}
_STYLES.update({"unsupported version": "yellow", "unsealed": "yellow", "active": "green"})

_SPOOL_COLUMNS = (
    Column("spool", gives=True, tail=8),
    Column("rank", right=True, rank=2, spare="-"),
    Column("writer"),
    Column("segments", right=True, rank=1),
    Column("records", right=True),
    Column("bytes", right=True, rank=3),
    Column("last record"),
    Column("errors", right=True),
)


def inspect_paths(paths: Sequence[Path], *, verify: bool, as_json: bool) -> int:
    """Inspect and print. Returns the exit code: 1 if there is an error or a path is not a spool."""
    found = [(path, _inspect(path, verify=verify)) for path in paths]
    if as_json:
        maps = [spool.to_map() for _, spools in found for spool in spools]
        maps += [_not_a_spool(path) for path, spools in found if not spools]
        print(to_json(json_safe(maps), indent=True).decode())  # noqa: T201
    else:
        out = console()
        for place, (path, spools) in enumerate(found):
            if place:
                out.print()
            _print(path, spools, out)
    return int(any(not spools or any(spool.errors for spool in spools) for _, spools in found))


def _inspect(path: Path, *, verify: bool) -> list[InspectedSpool]:
    """The spool or segment at `path`, or all spools below it. Empty if there is none."""
    if path.is_dir():
        if fmt.is_spool_id(path.resolve().name) or Reader(path).segments():
            return [inspect_spool(path, verify=verify)]
        return [inspect_spool(directory, verify=verify) for directory in find_spools(path)]
    return [inspect_segment_file(path)] if path.is_file() and _is_segment(path) else []


def _is_segment(path: Path) -> bool:
    """Whether a file is a segment by its name or by its header."""
    if fmt.segment_number(path.name) is not None:
        return True
    try:
        with safe_open.open_named(path) as file:
            head = file.read(72)
    except OSError:
        return False
    is_database = head.startswith(b"SQLite format 3\x00")
    return is_database and int.from_bytes(head[68:72], "big") == fmt.APPLICATION_ID


def _not_a_spool(path: Path) -> dict[str, Any]:
    importable = [one for one in formats().values() if _holds(path, one)]
    replay = f"`lens-ship replay {path}` imports it, with --as-workload if it names no workload"
    next_step = replay if importable else ""
    return {"path": str(path), "what": "not a spool", "next": next_step, "has_errors": True}


def _holds(path: Path, one: Format) -> bool:
    """Whether `path` is a file of this format of another tool, or a directory with such files."""
    return any(one.find(path)) if path.is_dir() else path.is_file() and one.recognises(path)


def _print(path: Path, spools: Sequence[InspectedSpool], out: Console) -> None:
    if not spools:
        found = _not_a_spool(path)
        hint = f" ({found['next']})" if found["next"] else ""
        text = f"{path}: {found['what']}{hint}"
        _line(out, sanitize(text, _MAX_PATH), "bold red")
    elif len(spools) > 1 or spools[0].path != path:
        _print_spools(spools, out)
    else:
        _print_spool(spools[0], out)


def _print_spools(spools: Sequence[InspectedSpool], out: Console) -> None:
    rows = []
    for spool in spools:
        rank = spool.identity.rank if spool.identity else None
        errors = len(spool.errors)
        texts = (
            sanitize(spool.name),
            "-" if rank is None else str(rank),
            _writer(spool),
            str(len(spool.segments)),
            f"{spool.records:,}",
            size(spool.bytes),
            clock(spool.times[1]),
        )
        rows.append((*map(Text, texts), Text(str(errors), style="bold red" if errors else "")))
    out.print(fitted(_SPOOL_COLUMNS, rows, out.width))
    for spool in spools:
        _print_problems(spool.errors, out)
    records = sum(spool.records for spool in spools)
    total = size(sum(spool.bytes for spool in spools))
    _line(out, f"{counted(len(spools), 'spool')}, {counted(records, 'record')}, {total}")


def _print_spool(spool: InspectedSpool, out: Console) -> None:
    _line(out, sanitize(spool.path, _MAX_PATH), "bold")
    for label, text in _facts(spool):
        _line(out, f"  {label:<10}{text}")
    if spool.segments:
        out.print(_segment_table(spool.segments))
    for label, text in _stats(spool.stats, whole=spool.whole):
        _line(out, f"  {label:<10}{text}")
    _print_problems(spool.problems, out)
    if not spool.errors:
        read = "every record" if spool.whole else "a sample, use --verify to read every record"
        _line(out, f"no errors found (read {read})", "green")


def _line(out: Console, text: str, style: str = "") -> None:
    """Print without wrapping, so that paths can be copied."""
    out.print(Text(text, style=style), soft_wrap=True)


def _facts(spool: InspectedSpool) -> Iterator[tuple[str, str]]:
    who = spool.identity
    if who is not None:
        where = f"pid {who.pid} on {sanitize(who.host)}, lens-ship {sanitize(who.version or '?')}"
        yield "writer", f"{_writer(spool)} ({where})"
        yield "created", clock(who.created)
        yield "job", _job(who)
    first, last = spool.seqs
    begin, end = spool.times
    content = f"{counted(spool.records, 'record')}, {size(spool.bytes)}"
    if spool.records:
        content += f", seq {first:,} to {last:,}, {clock(begin)} to {clock(end)}"
    yield "content", content


def _writer(spool: InspectedSpool) -> str:
    if spool.alive is None:
        return "unknown from a single segment"
    if spool.alive:
        return "running"
    return "exited" if spool.stats.clean_shutdown else "not running"


def _job(who: Identity) -> str:
    parts = (
        ("workload", who.workload_uid),
        ("pod", who.pod_name or who.pod_uid),
        ("rank", who.rank),
        ("of", who.world_size),
        ("local rank", who.local_rank),
        ("node rank", who.node_rank),
    )
    known = [f"{label} {sanitize(value)}" for label, value in parts if value not in ("", None)]
    return ", ".join(known) or "unknown"


def _segment_table(segments: Sequence[InspectedSegment]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("segment", "state", "records", "first", "last", "bytes", "from", "to"):
        right = name in ("records", "first", "last", "bytes")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    half = _MAX_SEGMENTS // 2
    for place, one in enumerate(segments):
        if len(segments) > _MAX_SEGMENTS and half <= place < len(segments) - half:
            if place == half:
                table.add_row("…", f"{len(segments) - 2 * half} more")
            continue
        begin, end = clock(one.first_time), clock(one.last_time)
        table.add_row(
            Text(sanitize(one.path.name)),
            Text(one.state, style=_STYLES.get(one.state, "")),
            f"{one.records:,}",
            f"{one.first:,}",
            f"{one.last:,}",
            size(one.bytes),
            begin,
            end[11:] if begin[:10] == end[:10] else end,  # the date once where it is the same
        )
    return table


def _stats(stats: RecordStats, *, whole: bool) -> Iterable[tuple[str, str]]:
    kinds = [f"{count:,} {sanitize(kind, 60)}" for kind, count in sorted(stats.kinds.items())]
    yield "kinds", ", ".join(kinds) or "none"
    for run in list(stats.runs.values())[:_MAX_LINES]:
        yield "run", _run(run, whole=whole)
        yield "", _metrics(run)
    if len(stats.runs) > _MAX_LINES:
        yield "", f"and {len(stats.runs) - _MAX_LINES}{' or' if stats.more_runs else ''} more runs"
    for gap in stats.gaps[:_MAX_LINES]:
        deleted = f", records {gap.first:,} to {gap.last:,}" if gap.first else ""
        reported = f"(reported by record {gap.seq:,})"
        yield (
            "dropped",
            f"{counted(gap.count, 'record')}: {sanitize(gap.reason)}{deleted} {reported}",
        )
    if len(stats.gaps) > _MAX_LINES:
        yield "", f"and {len(stats.gaps) - _MAX_LINES} more gaps"


def _run(run: RunStats, *, whole: bool) -> str:
    name = "/".join(sanitize(part, 60) for part in (run.project, run.name) if part)
    steps = "no steps"
    if run.first_step is not None:
        steps = f"{'' if whole else 'about '}steps {run.first_step:,} to {run.last_step:,}"
    end = f"finished, exit code {run.exit_code}" if run.finished else "not finished"
    found = f"{sanitize(run.run, 80)}{f' ({name})' if name else ''}: {steps}, {end}"
    if not run.reason:
        return found
    known = (run.sole_writer, "no rank prefix"), (run.run_prefix, "a run prefix")
    prefixes = " and ".join(word for holds, word in known if holds) or "the usual prefix"
    return f"{found}, names have {prefixes} ({sanitize(run.reason, 200)})"


def _metrics(run: RunStats) -> str:
    names = sorted(run.metrics)
    shown = ", ".join(sanitize(name, 80) for name in names[:_MAX_METRICS])
    left = len(names) - _MAX_METRICS
    more = f" and {left}{' or' if run.more_metrics else ''} more" if left > 0 else ""
    return (shown or "no metrics") + more


def _print_problems(problems: Sequence[Problem], out: Console) -> None:
    for problem in problems[:_MAX_PROBLEMS]:
        where, what = sanitize(problem.where, _MAX_PATH), sanitize(problem.what, 500)
        style = "bold red" if problem.level == ERROR else "yellow"
        _line(out, f"{problem.level}: {where}: {what}", style)
    if len(problems) > _MAX_PROBLEMS:
        _line(out, f"and {len(problems) - _MAX_PROBLEMS} more")
