"""`lens-ship check`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import json_flag, load_config, more_sinks, settings


@click.command()
@click.option(
    "--config-only",
    is_flag=True,
    help="Check the settings and the files they name, without network access.",
)
@click.option("--strict", is_flag=True, help="Exit 1 also for warnings.")
@json_flag
@more_sinks
@settings()
def check(
    config_only: bool, strict: bool, as_json: bool, config_file: Path | None, **flags: Any
) -> None:
    """Check settings, state, spools, disk, host and receivers without changing anything.

    Exits 1 if a check fails, or with --strict gives a warning, and 2 if settings are invalid.
    """
    from shipper.check import check_settings, run_checks
    from shipper.cli.render import print_findings
    from shipper.errors import ConfigError
    from shipper.finding import FAIL, OK, fail

    try:
        config = load_config(flags, config_file, warn=False, sends=True)
    except ConfigError as error:
        if as_json:
            step = "correct it; `lens-ship docs configuration` describes every setting"
            print_findings([fail("settings", one, step) for one in error.problems], as_json=True)
        raise
    findings = list(check_settings(config) if config_only else run_checks(config))
    print_findings(findings, as_json=as_json)
    levels = {finding.level for finding in findings}
    sys.exit(1 if FAIL in levels or (strict and levels - {OK}) else 0)
