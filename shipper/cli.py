"""The command line. Each command imports its room when it runs, so that none pays for the others.

Exit codes: 0 done; 1 something is left to do or failed; 2 settings that cannot be used; 3 the state
directory is in use; 4 it cannot be used.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

import spooler
from shipper.errors import ShipperError


def main() -> None:
    """Entry point of the `lens-ship` command."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except ShipperError as error:
        for line in str(error).splitlines():
            click.echo(f"lens-ship: {line}", err=True)
        sys.exit(error.exit_code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(spooler.__version__, prog_name="lens-ship")
def cli() -> None:
    """Durable telemetry of ML training: from the spool on this node to its receivers."""


def _settings(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options for these settings, from the one table of them."""
    from shipper.config import SETTINGS

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for setting in reversed(SETTINGS):
            if names and setting.name not in names:
                continue
            default = "" if setting.default in (None, "") else f"  [default: {setting.default}]"
            command = click.option(
                setting.flag, setting.name, metavar="VALUE", help=setting.help + default
            )(command)
        return click.option(
            "--config",
            "config_file",
            type=click.Path(dir_okay=False, path_type=Path),
            envvar="LENS_SHIP_CONFIG",
            help="TOML file with any of these settings.",
        )(command)

    return decorate


@cli.command()
@click.option("--once", is_flag=True, help="Ship what is there and end.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    envvar="LENS_SHIP_TIMEOUT",
    help="With --once: seconds after which to give up.",
)
@_settings()
def run(once: bool, timeout: float, config_file: Path | None, **flags: Any) -> None:
    """Ship the spools below a root until told to stop (SIGTERM, Ctrl-C).

    With --once: exit 0 when nothing is left to send, 1 when something is.
    """
    from shipper.config import load
    from shipper.service import Service, ship_once

    config = load(flags, os.environ, config_file)
    _start_logging(config.log_level)
    if once:
        pending = ship_once(config, timeout=timeout)
        for line in pending:
            click.echo(f"lens-ship: still pending: {line}", err=True)
        sys.exit(1 if pending else 0)
    service = Service(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()
    # A worker may still hang in a request; its thread is not worth waiting for.
    logging.shutdown()
    os._exit(0)


@cli.command()
@click.option("--listen", default="127.0.0.1:8989", show_default=True, help="HOST:PORT.")
@click.option(
    "--data",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("telemetry.sqlite"),
    show_default=True,
    help="SQLite file that keeps what is received.",
)
@click.option("--prefix", default="/v1", show_default=True, help="Where the routes stand.")
def receive(listen: str, data: Path, prefix: str) -> None:
    """Run a small local telemetry-processor, to try things out. Not for production."""
    from shipper.receiver.errors import CannotListen, StoreFailed
    from shipper.receiver.server import serve

    host, _, port = listen.rpartition(":")
    if not port.isdecimal():
        raise click.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")
    _start_logging("info")
    try:
        serve(host or "127.0.0.1", int(port), data, prefix)
    except CannotListen as error:
        raise click.BadParameter(str(error), param_hint="--listen") from error
    except StoreFailed as error:
        raise click.BadParameter(str(error), param_hint="--data") from error


@cli.command()
@click.option(
    "--seconds",
    type=click.FloatRange(10, 600),
    default=25.0,
    show_default=True,
    help="How long to train, both processes together.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="New or empty folder for spool, state, database and logs, which then stay.",
)
@click.option("--seed", type=int, help="Repeat the planned moments of another demo.")
def demo(seconds: float, keep: Path | None, seed: int | None) -> None:
    """Train, kill, restart, cut the network, and count: nothing is lost. Under a minute."""
    from shipper.demo import run_demo

    sys.exit(run_demo(seconds=seconds, keep=keep, seed=seed))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For machines: one JSON object.")
@_settings("spool", "state")
def audit(as_json: bool, config_file: Path | None, **flags: Any) -> None:
    """Account for every record of every spool; exit 1 when an account does not balance."""
    from shipper.audit import take_accounts
    from shipper.dead_letters import open_ledger
    from shipper.report import print_accounts
    from shipper.sinks import REGISTRY

    config = _load(flags, config_file)
    ledger = open_ledger(config)
    try:
        accounts = take_accounts(ledger, config.spool, REGISTRY)
    finally:
        ledger.close()
    print_accounts(accounts, as_json=as_json)
    sys.exit(0 if all(account.balances for account in accounts) else 1)


@cli.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--run", default="", help="Only this run.")
@click.option("--workload", default="", help="Only this workload.")
@click.option("--kind", type=click.Choice(["step", "detection"]), help="Only records of this kind.")
@click.option("--sink", "only_sink", default="", help="Only to this sink.")
@click.option("--first-step", type=int, help="Only steps from this one on.")
@click.option("--last-step", type=int, help="Only steps up to this one.")
@click.option("--since", type=float, help="Only records from this time on, Unix seconds.")
@click.option("--until", type=float, help="Only records up to this time, Unix seconds.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option("--again", is_flag=True, help="Send what is delivered once more.")
@click.option(
    "--overwrite", is_flag=True, help="Send steps that a later process has written since, too."
)
@click.option("--rate", type=click.FloatRange(min=0.1), help="Records a second at most.")
@click.option("--as-workload", default="", help="The workload of files that do not know theirs.")
@click.option("--as-pod", default="", help="The pod of files that do not know theirs.")
@_settings("spool", "state", "processor_url", "batch_size", "request_bytes", "numbers_only")
def replay(
    paths: tuple[Path, ...],
    plan_only: bool,
    rate: float | None,
    config_file: Path | None,
    **given: Any,
) -> None:
    """Send what lies on disk: kept segments, spools and files at PATHS.

    Without PATHS: the spools below --spool, as far as they are delivered, with --again. PATHS may
    be spools from elsewhere, the older exporter's wandb_metrics.jsonl files, wandb's offline run
    folders, or folders of any of these.
    """
    from shipper.replay.command import replay_command

    sys.exit(replay_command(paths, given, config_file, plan_only=plan_only, rate=rate))


@cli.group("dead-letter")
def dead_letter() -> None:
    """Records that a receiver has refused for good."""


def _selection(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("numbers", nargs=-1, type=int),
        click.option("--sink", default="", help="Only those of this sink."),
        click.option("--reason", default="", help="Only those refused for this reason."),
        click.option("--of", "spool_id", default="", help="Only those of this spool."),
    ):
        command = option(command)
    return command


def _chosen(ledger: Any, numbers: tuple[int, ...], sink: str, reason: str, spool_id: str) -> Any:
    from shipper.dead_letters import Selection, select

    return select(ledger, Selection(numbers=numbers, sink=sink, reason=reason, spool=spool_id))


@dead_letter.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON list.")
@_selection
@_settings("state")
def dead_letter_list(
    as_json: bool, config_file: Path | None, state: str | None, **selection: Any
) -> None:
    """List dead letters, oldest first."""
    from shipper.report import print_dead_letters

    with _ledger(state, config_file) as ledger:
        print_dead_letters(_chosen(ledger, **selection), as_json=as_json)


@dead_letter.command("show")
@click.argument("number", type=int)
@_settings("state")
def dead_letter_show(number: int, config_file: Path | None, state: str | None) -> None:
    """Print one dead letter with the receiver's answer and the record itself, as JSON."""
    from shipper.dead_letters import Selection, select, show
    from shipper.report import print_json

    with _ledger(state, config_file) as ledger:
        rows = select(ledger, Selection(numbers=(number,)))
        if not rows:
            raise click.ClickException(f"no dead letter {number} is kept; see `dead-letter list`")
        print_json(show(ledger, rows[0]))


@dead_letter.command("retry")
@_selection
@_settings()
def dead_letter_retry(
    numbers: tuple[int, ...],
    sink: str,
    reason: str,
    spool_id: str,
    config_file: Path | None,
    **flags: Any,
) -> None:
    """Send dead letters again; exit 1 when one is refused again. Without numbers: all of them."""
    from shipper.dead_letters import retry
    from shipper.outcome import Verdict
    from shipper.service import build_address, build_sinks

    config = _load(flags, config_file)
    with _ledger(str(config.state), None) as ledger:
        rows = _chosen(ledger, numbers, sink, reason, spool_id)
        done = retry(ledger, rows, build_sinks(config, build_address(config)))
    failed = [one for one in done if one.outcome.verdict is not Verdict.DELIVERED]
    for one in failed:
        click.echo(f"{one.number}: {one.outcome.reason}: {one.outcome.detail}", err=True)
    click.echo(f"{len(done) - len(failed)} delivered, {len(failed)} still dead letters")
    sys.exit(1 if failed else 0)


@dead_letter.command("drop")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_selection
@_settings("state")
def dead_letter_drop(
    yes: bool, config_file: Path | None, state: str | None, **selection: Any
) -> None:
    """Give dead letters up for good; they stay counted. Without numbers: all of them."""
    from shipper.dead_letters import drop

    with _ledger(state, config_file) as ledger:
        rows = _chosen(ledger, **selection)
        if rows and not yes:
            click.confirm(f"Give up {len(rows)} dead letters for good?", abort=True)
        click.echo(f"{drop(ledger, rows)} given up")


def _load(flags: dict[str, Any], config_file: Path | None) -> Any:
    from shipper.config import load

    return load(flags, os.environ, config_file)


@contextmanager
def _ledger(state: str | None, config_file: Path | None) -> Iterator[Any]:
    """The ledger of the given state directory, beside a service that may be running."""
    from shipper.dead_letters import open_ledger

    # These commands need no spool root; the table of settings wants one.
    ledger = open_ledger(_load({"state": state, "spool": "."}, config_file))
    try:
        yield ledger
    finally:
        ledger.close()


@cli.group()
def hook() -> None:
    """The zero-code hook of this Python environment."""


@hook.command("status")
def hook_status() -> None:
    """Say whether Python processes of this environment are hooked, and why not."""
    from shipper.activation import report

    lines, active = report(os.environ)
    for line in lines:
        click.echo(line)
    sys.exit(0 if active else 1)


@hook.command("install")
def hook_install() -> None:
    """Put the .pth file in place where it is missing or damaged."""
    from shipper.activation import install

    click.echo(install())


@hook.command("uninstall")
def hook_uninstall() -> None:
    """Take the .pth file away; the package stays."""
    from shipper.activation import uninstall

    click.echo(uninstall())


def _start_logging(level: str) -> None:
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s %(levelname)-7s %(message)s",
        stream=sys.stderr,
        force=True,
    )
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    logging.getLogger("watchdog").setLevel(logging.WARNING)
