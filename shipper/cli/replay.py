"""`lens-ship replay`."""

from __future__ import annotations

import math
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipper.cli.options import Number, load_config, need_readable, settings, word
from shipper.config.schema import SINK_SETTINGS

if TYPE_CHECKING:
    from shipper.config.schema import Config
    from shipper.ledger.ledger import Ledger
    from shipper.replay.plan import ReplayPart, ReplayRequest
    from shipper.sinks import Sink, SinkConfig

SELECTING = ("run", "workload", "first_step", "last_step", "since", "until")


_STEP = click.IntRange(-(2**63), 2**63 - 1)


def timestamp(value: str) -> float:
    """Unix seconds of an ISO 8601 date and time (UTC, unless it has an offset), or as they are."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds):
        return seconds
    try:
        moment = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value))
    except ValueError:
        example = "2026-01-31T12:30 or 1769862600"
        raise click.BadParameter(f"{value!r} is not a time such as {example}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@word("--run", help="Only this run.")
@word("--workload", help="Only this workload.")
@click.option(
    "--kind",
    default="",
    type=click.Choice(["", "step", "detection", "report"]),
    help="Only records of this kind.",
)
@word("--sink", "only_sink", help="Only to this sink.")
@click.option("--first-step", type=_STEP, help="Only steps from this one on.")
@click.option("--last-step", type=_STEP, help="Only steps up to this one.")
@click.option("--since", type=timestamp, metavar="TIME", help="Only records from this time on.")
@click.option(
    "--until",
    type=timestamp,
    metavar="TIME",
    help="Only records up to this time. TIME is an ISO 8601 date and time, or Unix seconds."
    " Without an offset it is UTC, without a time midnight.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing.")
@click.option("--resend-delivered", is_flag=True, help="Send delivered records again.")
@click.option(
    "--overwrite-newer",
    is_flag=True,
    help="Also send steps that a later process of the workload has written since.",
)
@click.option("--rate", type=Number(0.1), help="Maximum records a second.")
@word("--as-workload", help="The workload of files that do not name one.")
@word("--as-pod", help="The pod of files that do not name one.")
@settings("spool", "pod_directories", "state", *SINK_SETTINGS)
def replay(
    paths: tuple[Path, ...],
    dry_run: bool,
    rate: float | None,
    config_file: Path | None,
    **given: Any,
) -> None:
    """Send records that are on disk: kept segments, spools and files at PATHS.

    Without PATHS, resend the delivered records of the spools below --spool. This requires
    --resend-delivered.

    PATHS may be spools, the older exporter's wandb_metrics.jsonl files, wandb's offline run
    directories, or directories of any of these.

    Without --sink or --kind, sinks whose receiver keeps data in memory only are left out, because
    a resent report may do harm.
    """
    from shipper.config.schema import SETTINGS
    from shipper.log import start

    start("warning")
    flags = {setting.name: given[setting.name] for setting in SETTINGS if setting.name in given}
    config = load_config(flags, config_file, needs_spool=not paths, sends=not dry_run)
    if not paths:
        need_readable(config.spool)
    sys.exit(run_replay(paths, given, config, dry_run=dry_run, rate=rate))


def run_replay(
    paths: tuple[Path, ...],
    given: Mapping[str, Any],
    config: Config,
    *,
    dry_run: bool = False,
    rate: float | None = None,
) -> int:
    """Plan, print, send, print. The exit code is 1 if something was left.

    `given` has the options of `replay` that are not settings, by name.
    """
    from shipper.cli.render import NO_WORKLOAD, print_plan, print_rejected, print_sent
    from shipper.errors import ConfigError
    from shipper.ledger.ledger import Ledger
    from shipper.replay.plan import make_plan
    from shipper.sinks import build_sinks, enabled_sinks

    enabled = enabled_sinks(config)
    with (
        closing(Ledger(config.state, exclusive=False, create=True)) as ledger,
        nullcontext() if dry_run else ledger.replaying(),
    ):
        parts, problems = make_plan(_request(paths, given, config, enabled), ledger)
        sending = [part for part in parts if part.to_send or part.unfinished]
        names = {part.sink for part in sending}
        sinks = build_sinks({name: enabled[name] for name in names})
        places = {(part.spool, part.sink): _destination(part, sinks) for part in sending}
        lost = sorted({spool for (spool, _), place in places.items() if place == ""})
        unknown = sorted({part.spool for part in sending if _is_anonymous(part, sinks)})
        print_plan(parts, problems, {place for place in places.values() if place}, lost, unknown)
        if dry_run or not sending:
            return 1 if problems or unknown else 0
        why = "neither the settings nor its job have an address: set processor_url"
        errors = [f"{spool}: {why}" for spool in lost]
        errors += [f"{spool}: {NO_WORKLOAD}, nothing was sent" for spool in unknown]
        if errors:
            raise ConfigError(errors)
        receipts = _send(sending, sinks, ledger, config, rate)
        print_sent(receipts)
        if len(receipts) < len(sending):
            return 1
        sys.stdout.flush()  # the replay has ended once this was printed
        ledger.end_replays(receipts)
        rejected = sum(part.records for part in sending) - sum(one.records for one in receipts)
        if rejected:
            print_rejected(rejected)
        return 1 if problems or rejected else 0


def _request(
    paths: tuple[Path, ...],
    given: Mapping[str, Any],
    config: Config,
    sinks: Mapping[str, SinkConfig],
) -> ReplayRequest:
    from shipper.replay.plan import ReplayRequest
    from shipper.replay.selection import Selection, carries

    only, kind = given["only_sink"], given["kind"]
    if only and only not in sinks:
        names = ", ".join(map(repr, sinks))
        raise click.BadParameter(f"{only!r} is not one of {names}", param_hint="--sink")
    chosen = {
        name: sink.carried
        for name, sink in sinks.items()
        if (name == only if only else bool(kind) or not sink.volatile)
        and (not kind or carries(sink.carried, kind))
    }
    return ReplayRequest(
        root=config.spool if "spool" in config.given else None,
        pod_directories=config.pod_directories,
        paths=paths,
        selection=Selection(kind=kind, **{name: given[name] for name in SELECTING}),
        sinks=chosen,
        resend_delivered=given["resend_delivered"],
        overwrite_newer=given["overwrite_newer"],
        workload_uid=given["as_workload"],
        pod_name=given["as_pod"],
    )


def _destination(part: ReplayPart, sinks: dict[str, Sink]) -> str | None:
    """Where a part would go; "" when there is no address, None when the sink cannot tell."""
    from shipper.sinks import HasDestination

    sink = sinks[part.sink]
    return sink.destination(part.source.identity) if isinstance(sink, HasDestination) else None


def _is_anonymous(part: ReplayPart, sinks: dict[str, Sink]) -> bool:
    """Whether the receiver needs a workload or pod, and the source names neither."""
    from shipper.sinks import ResolvesIdentity

    identity = part.source.identity
    named = identity.workload_uid or identity.pod_name
    return not named and isinstance(sinks[part.sink], ResolvesIdentity)


def _send(
    parts: Sequence[ReplayPart],
    sinks: dict[str, Sink],
    ledger: Ledger,
    config: Config,
    rate: float | None,
) -> Any:
    from shipper.cli.render import progress_bar
    from shipper.replay.send import ReplayContext, carry_out

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    context = ReplayContext(
        ledger=ledger, config=config, sinks=sinks, now=time.monotonic, stop=stop, rate=rate
    )
    with progress_bar(sum(part.to_send for part in parts)) as advance:
        return carry_out(parts, context, lambda _part, records: advance(records))
