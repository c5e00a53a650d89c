"""`lens-ship audit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipper.cli.options import (
    load_config,
    need_readable,
    open_ledger,
    report_missing_root,
    settings,
)

if TYPE_CHECKING:
    from shipper.audit.account import Account


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--accept-missing",
    is_flag=True,
    help="Count records that are gone with their files as dropped (reason: gone).",
)
@settings("spool", "state")
def audit(as_json: bool, accept_missing: bool, config_file: Path | None, **flags: Any) -> None:
    """Account for every record of every spool, and check the receipts of replays.

    Records that the service has seen and whose files are gone are unaccounted, until the files are
    back, --accept-missing is given, or 30 days have passed.

    A state directory in which only replays have been needs no --spool.

    Exits 1 if an account does not balance, if a directory below the spool root cannot be
    read, if the root does not exist, or if replayed records differ from those on disk.
    """
    from shipper.audit import audit as audits
    from shipper.cli.render import print_accounts
    from shipper.config.load import NO_ROOT
    from shipper.discovery.layout import collect_unreadable
    from shipper.discovery.same_spool import is_missing
    from shipper.errors import ConfigError
    from shipper.replay.verify import DIFFERS, check_receipts
    from shipper.sinks import carried_kinds, sink_names

    config = load_config(flags, config_file, needs_spool=False)
    has_root = "spool" in config.given
    if has_root:
        need_readable(config.spool)
    closed: dict[str, str] = {}
    accounts: list[Account] = []
    with open_ledger(config) as ledger:
        noted = ledger.sinks()
        sinks = sink_names(config, noted)
        removed = audits.removed_sinks(ledger, sinks)
        if not has_root and (ledger.spools() or not ledger.replays()):
            raise ConfigError([NO_ROOT])
        if has_root and accept_missing and not is_missing(config.spool):
            audits.accept_missing(ledger, config.spool, sinks)
        if has_root:
            accounts = audits.run_audit(
                ledger, config.spool, sinks, collect_unreadable(closed), removed=removed
            )
        receipts = check_receipts(ledger, carried_kinds(config, noted))
    print_accounts(accounts, receipts=receipts, closed=closed, as_json=as_json)
    differs = any(receipt.state == DIFFERS for receipt in receipts)
    balanced = all(account.balances for account in accounts)
    missing = has_root and report_missing_root(config.spool)
    sys.exit(0 if balanced and not closed and not differs and not missing else 1)
