"""`lens-ship check`: is everything as it should be, and if not, what to do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import load_config, settings


@click.command()
@click.option(
    "--config-only", is_flag=True, help="Only the settings and the files they name; no network."
)
@click.option("--strict", is_flag=True, help="Exit 1 for warnings, too.")
@click.option("--json", "as_json", is_flag=True, help="For machines: one JSON object.")
@settings()
def check(
    config_only: bool, strict: bool, as_json: bool, config_file: Path | None, **flags: Any
) -> None:
    """Check settings, state, spools, disk, machine and receivers; change nothing.

    Exit 0: it works, perhaps with warnings. 1: something fails, or with --strict a warning.
    2: settings that cannot be used.
    """
    from shipper.check import check_settings, run_checks
    from shipper.cli.render import print_findings
    from shipper.errors import ConfigError
    from shipper.finding import FAIL, OK, fail

    try:
        config = load_config(flags, config_file, warn=False, sends=True)
    except ConfigError as error:
        if as_json:
            step = "correct it; docs/configuration.md describes every setting"
            print_findings([fail("settings", one, step) for one in error.problems], as_json=True)
        raise
    look = check_settings if config_only else run_checks
    findings = list(look(config))
    print_findings(findings, as_json=as_json)
    levels = {finding.level for finding in findings}
    sys.exit(1 if FAIL in levels or (strict and levels - {OK}) else 0)
