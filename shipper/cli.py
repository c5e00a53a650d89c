"""The command line. Each command imports its room when it runs, so that none pays for the others.

Exit codes: 0 done; 1 something is left to do or failed; 2 settings that cannot be used; 3 the state
directory is in use; 4 it cannot be used.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
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
    from shipper.receiver.server import serve

    host, _, port = listen.rpartition(":")
    if not port.isdecimal():
        raise click.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")
    _start_logging("info")
    serve(host or "127.0.0.1", int(port), data, prefix)


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
