"""Broken builds for the attacks on upgrades and replays."""

from __future__ import annotations

from tests.crash.lab.patches import Mutant, Patch

_STATE = "shipper/ledger/state.py"

STATE_MUTANTS: dict[str, Mutant] = {
    "migration-in-steps": Mutant(
        meaning="each statement of a migration is a transaction of its own",
        patches=(
            Patch(
                file=_STATE,
                old='        connection.execute("BEGIN IMMEDIATE")\n',
                new="",
            ),
            Patch(file=_STATE, old='        connection.execute("COMMIT")\n', new=""),
        ),
    ),
    "no-copy-before-migration": Mutant(
        meaning="a database is migrated without a copy for the way back",
        patches=(
            Patch(
                file=_STATE,
                old="        copy = _back_up(connection, path, version) if version else None\n",
                new="        copy = None\n",
            ),
        ),
    ),
    "copy-named-before-it-is-whole": Mutant(
        meaning="the copy for the way back has its name while it is being written",
        patches=(
            Patch(
                file=_STATE,
                old='    draft = path.with_name(f"{final.name}.part")\n',
                new="    draft = final\n",
            ),
        ),
    ),
    "newer-state-opened-anyway": Mutant(
        meaning="a database of a later version is used as if it were of this one",
        patches=(
            Patch(file=_STATE, old="    if version > STATE_VERSION:\n", new="    if False:\n"),
        ),
    ),
    "newer-spool-read-anyway": Mutant(
        meaning="a spool of a later version is read as if it were of this one",
        patches=(
            Patch(
                file="spooler/spool/db.py",
                old="    if version > fmt.FORMAT_VERSION:\n",
                new="    version = min(version, fmt.FORMAT_VERSION)\n    if False:\n",
            ),
        ),
    ),
    "newer-spool-set-aside": Mutant(
        meaning="a spool of a later version is taken for one that cannot be read, and moved away",
        patches=(
            Patch(
                file="shipper/disk/quarantine.py",
                old="        if isinstance(error, NewerFormat) or (isinstance",
                new="        if (isinstance",
            ),
        ),
    ),
}
