"""`lens-ship audit`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import load_config, need_open, settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For machines: one JSON object.")
@settings("spool", "state")
def audit(as_json: bool, config_file: Path | None, **flags: Any) -> None:
    """Account for every record of every spool, and check the receipts of replays.

    Exits 1 when an account does not balance, when a folder cannot be looked into, or when what was
    replayed is not what lies on disk.
    """
    from shipper.audit.audit import take_accounts
    from shipper.cli.render import print_accounts
    from shipper.dead_letters import open_ledger
    from shipper.discovery.layout import noting
    from shipper.replay.check import DIFFERS, check_receipts
    from shipper.sinks import REGISTRY

    config = load_config(flags, config_file)
    need_open(config.spool)
    closed: dict[str, str] = {}
    ledger = open_ledger(config)
    try:
        accounts = take_accounts(ledger, config.spool, REGISTRY, noting(closed))
        receipts = check_receipts(ledger)
    finally:
        ledger.close()
    told = [asdict(one) for one in receipts]
    print_accounts(accounts, receipts=told, closed=closed, as_json=as_json)
    wrong = bool(closed) or any(receipt.state == DIFFERS for receipt in receipts)
    sys.exit(0 if not wrong and all(account.balances for account in accounts) else 1)
