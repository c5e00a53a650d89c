"""What several commands have in common: options for settings, the ledger, the log."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

_SENTENCE = 500


class Group(click.Group):
    """Lists its commands with the whole first sentence of each."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does it, and nothing is cut."""
        every = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(limit=_SENTENCE)) for name, one in every if one]
            )


def one_of(registry: str) -> Callable[..., Any]:
    """For an option whose words are the keys of a module's `REGISTRY`; others are refused.

    A word that nothing has would find nothing, which looks as if there were nothing.
    """

    def check(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        from importlib import import_module

        words = click.Choice(list(import_module(registry).REGISTRY))
        if isinstance(value, tuple):
            return tuple(words.convert(one, param, ctx) for one in value)
        return words.convert(value, param, ctx) if value else value

    return check


# Settings that concern what is sent: the shorthands for the options of sinks.
SENDING = (
    "processor_url",
    "token_file",
    "cookie_file",
    "ca_file",
    "client_cert_file",
    "client_key_file",
    "proxy",
    "connect_timeout",
    "read_timeout",
    "batch_max_steps",
    "batch_max_bytes",
    "drop_non_numeric",
    "rank_prefix",
    "dlrover_address",
    "dlrover_protocol",
    "dlrover_client",
    "dlrover_message_bytes",
    "dlrover_max_age",
    "dlrover_wait_for_endpoint",
    "dlrover_proxy",
)


def settings(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options for these settings, from the one table of them."""
    from shipper.config.load import SETTINGS

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for setting in reversed(SETTINGS):
            if names and setting.name not in names:
                continue
            default = f"  [default: {_told(setting)}]" if _told(setting) else ""
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


def _told(setting: Any) -> str:
    """A default as one would write it; "" where there is none, or where the help tells it."""
    if setting.default in (None, "") or "Default:" in setting.help:
        return ""
    return (
        str(setting.default).lower() if isinstance(setting.default, bool) else str(setting.default)
    )


def load_config(
    flags: dict[str, Any], config_file: Path | None, *, warn: bool = True, **needs: bool
) -> Any:
    """The settings for a command; `needs` as `shipper.config.load.load` takes them.

    With `warn`, what looks wrong is said on stderr.
    """
    from shipper.config.load import load

    config = load(flags, os.environ, config_file, **needs)
    for warning in config.warnings if warn else ():
        click.echo(f"lens-ship: warning: {warning}", err=True)
    return config


def need_open(*places: Path) -> None:
    """Refuse places that are there and cannot be looked into: silence would look like emptiness.

    Raises:
        ConfigError: naming every such place.
    """
    from shipper.discovery.layout import why_closed
    from shipper.errors import ConfigError

    problems = [f"{place} {why}" for place in places if (why := why_closed(place))]
    if problems:
        raise ConfigError(problems)


@contextmanager
def ledger_of(state: str | None, config_file: Path | None) -> Iterator[Any]:
    """The ledger of the given state directory, beside a service that may be running."""
    from shipper.dead_letters import open_ledger

    ledger = open_ledger(load_config({"state": state}, config_file, needs_spool=False))
    try:
        yield ledger
    finally:
        ledger.close()


def quiet_on_closed_pipe(command: Callable[..., Any]) -> Callable[..., Any]:
    """End quietly when the reader of the output has gone (`| head`), as 128 + SIGPIPE says."""

    @functools.wraps(command)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        try:
            try:
                return command(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered has nowhere to go, and the interpreter flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)

    return quiet


def start_logging(level: str, style: str = "text", repeat_seconds: float = 0.0) -> None:
    """Log to stderr from `level` on; the other settings are those of the same names."""
    from shipper.log import start

    start(level, style, repeat_seconds)
