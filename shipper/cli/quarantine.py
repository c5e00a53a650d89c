"""`lens-ship quarantine list|show|drop`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import Group, load_config, need_open, settings


@click.group(cls=Group)
def quarantine() -> None:
    """Damaged segments that were set aside, each with a report."""


def _open(config_file: Path | None, flags: dict[str, Any]) -> Any:
    from shipper.retention.quarantine import Quarantine

    root = load_config(flags, config_file).spool
    need_open(root)
    return Quarantine(root)


def _named(folder: Any, names: tuple[str, ...]) -> list[Any]:
    reports = {report.name: report for report in folder.reports()}
    unknown = [name for name in names if name not in reports]
    if unknown:
        raise click.ClickException(
            f"not in quarantine: {', '.join(unknown)}; see `lens-ship quarantine list`"
        )
    return [reports[name] for name in names] if names else list(reports.values())


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{error}; nothing else was changed") from error


@quarantine.command("list")
@click.option("--all", "everything", is_flag=True, help="Those whose files were dropped, too.")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON list.")
@settings("spool")
def quarantine_list(
    everything: bool, as_json: bool, config_file: Path | None, **flags: Any
) -> None:
    """List what was set aside."""
    from shipper.cli.render import print_quarantine

    folder = _open(config_file, flags)
    reports = folder.reports(dropped=everything)
    print_quarantine([(report, folder.bytes_of(report)) for report in reports], as_json=as_json)


@quarantine.command("show")
@click.argument("name")
@settings("spool")
def quarantine_show(name: str, config_file: Path | None, **flags: Any) -> None:
    """Print the report of one, called SPOOL/SEGMENT as in the list."""
    folder = _open(config_file, flags)
    (report,) = _named(folder, (name,))
    click.echo(folder.text(report), nl=False)


@quarantine.command("drop")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.argument("names", nargs=-1)
@settings("spool")
def quarantine_drop(
    yes: bool, names: tuple[str, ...], config_file: Path | None, **flags: Any
) -> None:
    """Delete the files for good; their reports stay. Without names: all of them."""
    folder = _open(config_file, flags)
    reports = _named(folder, names)
    if reports and not yes:
        click.confirm(f"Delete {len(reports)} of them for good?", abort=True)
    with _disk():
        for report in reports:
            folder.drop(report)
    click.echo(f"{len(reports)} deleted")
