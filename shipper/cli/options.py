"""What commands share: options for settings, the ledger, the end of the output pipe."""

from __future__ import annotations

import functools
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

_SENTENCE = 500

json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_flag = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


class Group(click.Group):
    """Lists its commands with the whole first sentence of each."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Without the cut that click makes."""
        every = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(limit=_SENTENCE)) for name, one in every if one]
            )


def word(*names: str, **more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option that selects by a name, "" without it.

    An empty value is refused: a variable of a script that is not set would select everything.
    """

    def check(ctx: click.Context, param: click.Parameter, value: str) -> str:
        given = ctx.get_parameter_source(param.name or "") is not ParameterSource.DEFAULT
        if given and not value.strip():
            raise click.BadParameter("it is empty. Leave the option out to select everything")
        if not is_utf8(value):
            raise click.BadParameter(f"{value!r} is not UTF-8, as all names are")
        return value

    return click.option(*names, default="", callback=check, **more)


class NamedPath(click.Path):
    """A path that is not empty: that would be the current directory."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        if value == "":
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


class Number(click.FloatRange):
    """A finite number of at least `min`, at most ten years in seconds."""

    name = "number"

    def __init__(self, least: float) -> None:
        super().__init__(min=least, max=315_360_000)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """NaN is in no range, and click lets it pass."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def is_utf8(text: str) -> bool:
    """Whether a word of the command line can be compared with names and sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def settings(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options for these settings, or for all of them, and `--config`."""
    from shipper.config.load import SETTINGS

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for setting in reversed(SETTINGS):
            if names and setting.name not in names:
                continue
            default = "" if "Default:" in setting.help else setting.default_text
            text = setting.help + (f"  [default: {default}]" if default else "")
            command = click.option(setting.flag, setting.name, metavar="VALUE", help=text)(command)
        return click.option(
            "--config",
            "config_file",
            type=NamedPath(dir_okay=False, path_type=Path),
            envvar="LENS_SHIP_CONFIG",
            help="TOML file with any of these settings.",
        )(command)

    return decorate


more_sinks = click.option(
    "--sink",
    "sinks",
    multiple=True,
    metavar="TYPE=URL",
    help="A sink beside those of [sinks.NAME], with the defaults of its type, for example"
    " otlp=http://HOST:4318. May be given several times.",
)


def load_config(
    flags: dict[str, Any], config_file: Path | None, *, warn: bool = True, **needs: bool
) -> Any:
    """The settings for a command; `needs` are arguments of `shipper.config.load.load`.

    With `warn`, warnings are printed to stderr.

    Raises:
        ConfigError: with every problem; of the options `--sink`, with the first alone.
    """
    from shipper.config.load import load

    if flags.get("sinks"):
        flags = {**flags, "sinks": _tables_of(flags["sinks"])}
    more: dict[str, Any] = dict(needs)
    if needs.get("sends"):
        from shipper.sinks import table_problems

        more["check_sinks"] = table_problems
    config = load(flags, os.environ, config_file, **more)
    for warning in config.warnings if warn else ():
        click.echo(f"lens-ship: warning: {warning}", err=True)
    return config


def _tables_of(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The tables of the sinks that options `--sink TYPE=URL` describe, by name."""
    from shipper.errors import ConfigError
    from shipper.sinks import from_words

    try:
        return dict(map(from_words, texts))
    except ValueError as error:
        raise ConfigError([f"--sink: {error}"]) from error


def need_readable(*places: Path) -> None:
    """Refuse directories that exist and cannot be read: they would look empty.

    Raises:
        ConfigError: naming all of them.
    """
    from shipper.discovery.layout import why_unreadable
    from shipper.errors import ConfigError

    problems = [f"{place} {why}" for place in places if (why := why_unreadable(place))]
    if problems:
        raise ConfigError(problems)


def report_missing_root(root: Path) -> bool:
    """Whether the spool root does not exist, which is reported: it would look healthy."""
    from shipper.discovery.same_spool import is_missing

    missing = is_missing(root)
    if missing:
        click.echo(f"lens-ship: spool root {root} does not exist", err=True)
    return missing


@contextmanager
def open_ledger(config: Any) -> Iterator[Any]:
    """The ledger in the state directory; a service may be running."""
    from shipper.ledger.ledger import Ledger

    ledger = Ledger(config.state, exclusive=False)
    try:
        yield ledger
    finally:
        ledger.close()


def quiet_on_closed_pipe(command: Callable[..., Any]) -> Callable[..., Any]:
    """Exit with 128 + SIGPIPE and no message when the output pipe is closed (`| head`)."""

    @functools.wraps(command)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        try:
            try:
                return command(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            # The interpreter flushes what is still buffered at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)

    return quiet
