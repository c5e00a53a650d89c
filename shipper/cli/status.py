"""`lens-ship status`: where everything stands."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipper.cli.options import load_config, settings

if TYPE_CHECKING:
    from shipper.status.collect import StatusCollector
    from shipper.status.model import Status
    from shipper.status.summary import Summary


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For machines: one JSON object a look.")
@click.option("--all", "everything", is_flag=True, help="Every spool, not the worst alone.")
@click.option(
    "--watch",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value="2",
    type=click.FloatRange(min=0.2),
    help="Look again and again until Ctrl-C; every 2 seconds unless told otherwise.",
)
@click.option("--spool-id", "only", default="", help="Only spools whose id begins with this.")
@click.option(
    "--dead-letters",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Dead letters to put up with before the exit code tells of them.",
)
@settings("spool", "state")
def status(config_file: Path | None, **options: Any) -> None:
    """Tell where everything stands: what waits, for how long, why, and what was lost.

    Reads only, and runs beside the service. Exit 0 when all is well or goes on by itself, 1 when
    somebody has to do something; docs/monitoring.md says what counts.
    """
    from shipper.status.collect import status_collector

    flags = {name: options[name] for name in ("spool", "state")}
    config = load_config(flags, config_file)
    with status_collector(config) as survey:
        looks = _Looks(survey, options)
        if options["watch"]:
            with suppress(KeyboardInterrupt):
                looks.go_on(options["watch"])
            sys.exit(0)
        sys.exit(1 if looks.once() else 0)


class _Looks:
    """One look, or one after the other."""

    def __init__(self, survey: StatusCollector, options: dict[str, Any]) -> None:
        self._survey = survey
        self._options = options

    def once(self) -> bool:
        """Show where everything stands; whether somebody has to do something."""
        from shipper.tables import console

        overview, verdict = self._take()
        if self._options["as_json"]:
            self._print_json(overview, verdict)
        else:
            out = console()
            out.print(self._render(overview, verdict, out.width))
        return verdict.needs_a_hand

    def go_on(self, seconds: float) -> None:
        """Show it again and again, in place where there is a terminal."""
        from rich.live import Live

        from shipper.tables import console

        out = console()
        if self._options["as_json"] or not out.is_terminal:
            while True:
                self.once()
                time.sleep(seconds)
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while True:
                live.update(self._render(*self._take(), out.width), refresh=True)
                time.sleep(seconds)

    def _take(self) -> tuple[Status, Summary]:
        from shipper.status.summary import summarize

        only = self._options["only"]
        overview = self._survey.take(only=only)
        if only and not overview.spools:
            raise click.ClickException(
                f"no spool below {overview.root} has an id that begins with {only}"
            )
        return overview, summarize(overview, dead_letters=self._options["dead_letters"])

    def _render(self, overview: Status, verdict: Summary, width: int) -> Any:
        from shipper.status.terminal import render

        everything = self._options["everything"] or bool(self._options["only"])
        return render(overview, verdict, width=width, everything=everything)

    def _print_json(self, overview: Status, verdict: Summary) -> None:
        from shipper.cli.render import print_json

        told = {"level": verdict.level, "headline": verdict.headline, "also": list(verdict.also)}
        facts = {"status": told, **overview.to_map()}
        print_json(facts, on_one_line=bool(self._options["watch"]))
