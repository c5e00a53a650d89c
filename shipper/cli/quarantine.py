"""`lens-ship quarantine list|show|drop`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shipper.cli.options import (
    Group,
    json_flag,
    load_config,
    need_readable,
    report_missing_root,
    settings,
    yes_flag,
)


@click.group(cls=Group)
def quarantine() -> None:
    """Damaged segments that were moved aside, each with a report."""


def _open(config_file: Path | None, flags: dict[str, Any]) -> Any:
    from shipper.retention.quarantine import Quarantine

    root = load_config(flags, config_file).spool
    need_readable(root)
    report_missing_root(root)
    return Quarantine(root)


def _selected(quarantined: Any, names: tuple[str, ...]) -> list[Any]:
    reports = {report.name: report for report in quarantined.reports()}
    unknown = [name for name in names if name not in reports]
    if unknown:
        shown = ", ".join(map(repr, unknown))
        raise click.ClickException(f"not in quarantine: {shown}; see `lens-ship quarantine list`")
    return [reports[name] for name in names or reports]


@quarantine.command("list")
@click.option("--all", "everything", is_flag=True, help="Include those whose files were deleted.")
@json_flag
@settings("spool")
def quarantine_list(
    everything: bool, as_json: bool, config_file: Path | None, **flags: Any
) -> None:
    """List damaged segments."""
    from shipper.cli.render import print_quarantine

    quarantined = _open(config_file, flags)
    reports = quarantined.reports(dropped=everything)
    print_quarantine([(one, quarantined.bytes_of(one)) for one in reports], as_json=as_json)


@quarantine.command("show")
@click.argument("name", metavar="SPOOL/SEGMENT")
@settings("spool")
def quarantine_show(name: str, config_file: Path | None, **flags: Any) -> None:
    """Print the report of one segment."""
    quarantined = _open(config_file, flags)
    (report,) = _selected(quarantined, (name,))
    click.echo(quarantined.text(report), nl=False)


@quarantine.command("drop")
@yes_flag
@click.argument("names", metavar="[SPOOL/SEGMENT]...", nargs=-1)
@settings("spool")
def quarantine_drop(
    yes: bool, names: tuple[str, ...], config_file: Path | None, **flags: Any
) -> None:
    """Delete the files of damaged segments permanently. Without names: all of them.

    Their reports stay.
    """
    from shipper.humanize import counted

    quarantined = _open(config_file, flags)
    reports = _selected(quarantined, names)
    if reports and not yes:
        click.confirm(f"Delete {counted(len(reports), 'segment')} permanently?", abort=True)
    for number, report in enumerate(reports):
        try:
            quarantined.drop(report)
        except OSError as error:
            raise click.ClickException(f"{error}; {number} deleted before") from error
    click.echo(f"{len(reports)} deleted")
