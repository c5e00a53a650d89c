"""`lens-ship audit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from shipper.commands.options import load_config, settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For machines: one JSON object.")
@settings("spool", "state")
def audit(as_json: bool, config_file: Path | None, **flags: Any) -> None:
    """Account for every record of every spool; exit 1 when an account does not balance."""
    from shipper.audit import take_accounts
    from shipper.dead_letters import open_ledger
    from shipper.report import print_accounts
    from shipper.sinks import REGISTRY

    config = load_config(flags, config_file)
    ledger = open_ledger(config)
    try:
        accounts = take_accounts(ledger, config.spool, REGISTRY)
    finally:
        ledger.close()
    print_accounts(accounts, as_json=as_json)
    sys.exit(0 if all(account.balances for account in accounts) else 1)
