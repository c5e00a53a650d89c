"""The commands with their help and options, from the parser, for docs/cli.md."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from shipper.cli import cli
from shipper.config.schema import SETTINGS
from tests.kit.command import commands_of

_SETTINGS = {setting.name for setting in SETTINGS}


def commands() -> str:
    """A section for each command, in the order of the registry."""
    # As a shell calls it: click keeps the help option of the first context.
    context = click.Context(cli, info_name="lens-ship", **cli.context_settings)
    return "\n\n".join(section for section in _sections(cli, context))


def _sections(group: click.Group, above: click.Context) -> Iterator[str]:
    for name, command in commands_of(group).items():
        context = click.Context(command, info_name=name, parent=above)
        yield _section(command, context)
        if isinstance(command, click.Group):
            yield from _sections(command, context)


def _section(command: click.Command, context: click.Context) -> str:
    depth = "##" if context.parent and context.parent.parent is None else "###"
    parts = [f"{depth} `{context.command_path}`", _text(command.help or "")]
    if not isinstance(command, click.Group):
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        parts.insert(1, f"```\n{usage}\n```")
        parts += _options(command, context)
    return "\n\n".join(parts)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    """A table of the command's own options, then which settings it takes."""
    options = [one for one in command.params if isinstance(one, click.Option)]
    own = [one for one in options if one.name not in _SETTINGS and one.name != "config_file"]
    rows = [record for one in own if (record := one.get_help_record(context))]
    if rows:
        lines = [f"| `{name}` | {_cell(text)} |" for name, text in rows]
        yield "\n".join(["| option | meaning |", "|---|---|", *lines])
    taken = [one for one in options if one.name in _SETTINGS]
    if len(taken) == len(_SETTINGS):
        yield "Takes `--config` and all [settings](configuration.md)."
    elif taken:
        names = ", ".join(f"`{one.opts[0]}`" for one in taken)
        yield f"Takes `--config` and these [settings](configuration.md): {names}."


def _text(text: str) -> str:
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(_escaped(" ".join(paragraph.split())) for paragraph in paragraphs)


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace(">", "&gt;").replace("*", "\\*")
