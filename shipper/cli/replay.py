"""`lens-ship replay`."""

from __future__ import annotations

import difflib
import math
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
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
_OLD_SECONDS = 3600.0  # the shortest time that a receiver takes late data for

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
@word("--run", help="Only this run, a prefix of its id is enough.")
@word("--workload", help="Only this workload.")
@click.option(
    "--kind",
    type=click.Choice(["step", "detection", "report"]),
    help="Only records of this kind.",
)
@word(
    "--sink",
    "only_sink",
    metavar="NAME|TYPE=URL",
    help="Only to this sink. TYPE=URL is a receiver that is not configured, with the defaults of"
    " its type: otlp=http://HOST:4318. All of its options need a table [sinks.NAME].",
)
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
@word("--as-pod", help="The pod of files that name neither workload nor pod.")
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
    --resend-delivered. To a receiver that is not configured (--sink TYPE=URL), which the service
    does not send to, all of their records are sent.

    PATHS may be spools, the older exporter's wandb_metrics.jsonl files, wandb's offline run
    directories, or directories of any of these.

    What is delivered already is known from the state directory. Receivers are not asked.

    Without --sink or --kind, sinks whose receiver keeps data in memory only are left out, because
    a resent report may do harm.
    """
    from shipper.config.schema import SETTINGS
    from shipper.log import start

    start("info")
    flags = {setting.name: given[setting.name] for setting in SETTINGS if setting.name in given}
    config = load_config(flags, config_file, needs_spool=not paths, sends=not dry_run)
    config, given["only_sink"] = with_sink(config, given["only_sink"])
    if not paths:
        need_readable(config.spool)
    sys.exit(run_replay(paths, given, config, dry_run=dry_run, rate=rate))


def with_sink(config: Config, text: str) -> tuple[Config, str]:
    """The settings with the sink of `--sink`, and its name.

    Raises:
        BadParameter: it is neither configured nor TYPE=URL.
    """
    from shipper.http_client.redact import masked
    from shipper.sinks import REGISTRY, from_words, sink_names

    configured = sink_names(config)
    if not text or text in configured:
        return config, text
    if "=" not in text and text not in REGISTRY:
        close = difflib.get_close_matches(text, [*configured, *REGISTRY], n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Types are {', '.join(REGISTRY)}."
        names = ", ".join(map(repr, configured))
        raise click.BadParameter(
            f"{masked(text)!r} is not one of {names}, and not TYPE=URL. {hint}", param_hint="--sink"
        )
    try:
        name, table = from_words(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--sink") from error
    given = {**config.given, f"sinks.{name}.type": "--sink"}
    return replace(config, sinks={name: table}, given=given), name


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
    from shipper.cli.render import NO_WORKLOAD, print_plan
    from shipper.errors import ConfigError
    from shipper.ledger.database import exists
    from shipper.ledger.ledger import Ledger
    from shipper.replay.plan import make_plan
    from shipper.sinks import build_sinks

    sinks = build_sinks(_chosen(given, config))
    makes_none = dry_run and not exists(config.state)
    with (
        TemporaryDirectory() if makes_none else nullcontext(config.state) as state,
        closing(Ledger(Path(state), exclusive=False, create=True)) as ledger,
        nullcontext() if dry_run else ledger.replaying(),
    ):
        plan = make_plan(_request(paths, given, config, sinks, ledger), ledger)
        places = {(part.spool, part.sink): _destination(part, sinks) for part in plan.sending}
        lost = sorted({spool for (spool, _), place in places.items() if place == ""})
        unknown = sorted({part.spool for part in plan.sending if _is_anonymous(part, sinks)})
        plan.notes.extend(_about_age(plan.sending, sinks))
        print_plan(plan, {place for place in places.values() if place}, lost, unknown)
        if dry_run or not plan.sending:
            return 1 if plan.problems or unknown else 0
        why = "neither the settings nor its job have an address: set processor_url"
        errors = [f"{spool}: {why}" for spool in lost]
        errors += [f"{spool}: {NO_WORKLOAD}, nothing was sent" for spool in unknown]
        if errors:
            raise ConfigError(errors)
        is_complete = _send(plan.sending, sinks, ledger, config, rate)
        return 0 if is_complete and not plan.problems else 1


def _chosen(given: Mapping[str, Any], config: Config) -> dict[str, SinkConfig]:
    from shipper.replay.source import carries
    from shipper.sinks import enabled_sinks

    only, kind = given["only_sink"], given["kind"]
    return {
        name: sink
        for name, sink in enabled_sinks(config).items()
        if (name == only if only else bool(kind) or not sink.volatile)
        and (not kind or carries(sink.carried, kind))
    }


def _request(
    paths: tuple[Path, ...],
    given: Mapping[str, Any],
    config: Config,
    sinks: Mapping[str, Sink],
    ledger: Ledger,
) -> ReplayRequest:
    from shipper.replay.find import Places
    from shipper.replay.plan import ReplayRequest
    from shipper.replay.source import Selection

    only = given["only_sink"]
    configured = config.given.get(f"sinks.{only}.type") != "--sink"
    places = Places(
        root=config.spool if "spool" in config.given else None,
        pod_directories=config.pod_directories,
        paths=paths,
        served=configured or only in ledger.sinks(),
        whole=given["resend_delivered"],
        workload_uid=given["as_workload"],
        pod_name=given["as_pod"],
    )
    return ReplayRequest(
        places=places,
        sinks=sinks,
        selection=Selection(kind=given["kind"] or "", **{name: given[name] for name in SELECTING}),
        resend_delivered=given["resend_delivered"],
        overwrite_newer=given["overwrite_newer"],
        step_keys=config.keys_of_steps,
    )


def _about_age(parts: Sequence[ReplayPart], sinks: dict[str, Sink]) -> Iterator[str]:
    """What receivers do with old data, where there is some."""
    from shipper.humanize import duration
    from shipper.sinks import LimitsAge

    for name, sink in sinks.items():
        times = [part.oldest for part in parts if part.sink == name and part.oldest]
        age = time.time() - min(times, default=math.inf)
        if isinstance(sink, LimitsAge) and age > _OLD_SECONDS:
            yield f"{name}: the oldest record is {duration(age)} old. {sink.age_limits}"


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
) -> bool:
    """Send, and print what became of it; whether all of it was delivered."""
    from shipper.cli.render import print_sent, progress_bar
    from shipper.replay.send import ReplayContext, carry_out

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    context = ReplayContext(
        ledger=ledger,
        config=config,
        sinks=sinks,
        now=time.monotonic,
        stop=stop,
        rate=rate,
    )
    before = _dropped(parts, ledger)
    with progress_bar(sum(part.to_send for part in parts)) as advance:
        receipts = carry_out(parts, context, lambda _part, records: advance(records))
    letters = print_sent(parts, receipts, _dropped(parts, ledger) - before, ledger)
    if len(receipts) < len(parts):
        left = "The rest is left. The same command sends it"
        click.echo(f"lens-ship: {left}; {config.state} has what was sent", err=True)
        return False
    sys.stdout.flush()  # the replay has ended once this was printed
    ledger.end_replays(receipts)
    return not letters


def _dropped(parts: Sequence[ReplayPart], ledger: Ledger) -> Counter[tuple[str, str, str]]:
    """Records that rules of sinks have dropped, by spool, entry and reason."""
    return Counter(
        {
            (row["spool"], row["sink"], row["reason"]): row["count"]
            for spool in {part.spool for part in parts}
            for row in ledger.dropped(spool)
        }
    )
