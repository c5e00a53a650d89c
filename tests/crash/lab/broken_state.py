"""Broken builds for the attacks on upgrades and replays."""

from __future__ import annotations

from tests.crash.lab.patches import BrokenBuild, Patch

_LEDGER = "shipper/ledger/ledger.py"
_REPLAY = "shipper/replay/send.py"
_STATE = "shipper/ledger/database.py"

STATE_BUILDS: dict[str, BrokenBuild] = {
    "migration-in-steps": BrokenBuild(
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
    "no-copy-before-migration": BrokenBuild(
        meaning="a database is migrated without a copy for the way back",
        patches=(
            Patch(
                file=_STATE,
                old="        copy = _back_up(connection, path, version) if version else None\n",
                new="        copy = None\n",
            ),
        ),
    ),
    "copy-named-before-complete": BrokenBuild(
        meaning="the copy of the database has its final name while it is written",
        patches=(
            Patch(
                file=_STATE,
                old='    draft = path.with_name(f"{final.name}.part")\n',
                new="    draft = final\n",
            ),
        ),
    ),
    "newer-database-opened": BrokenBuild(
        meaning="a database of a later version is used as if it were of the current one",
        patches=(
            Patch(file=_STATE, old="    if version > STATE_VERSION:\n", new="    if False:\n"),
        ),
    ),
    "newer-spool-read": BrokenBuild(
        meaning="a spool of a later version is read as if it were of the current one",
        patches=(
            Patch(
                file="spooler/spool/segment.py",
                old="        if version > fmt.FORMAT_VERSION:\n",
                new="        version = min(version, fmt.FORMAT_VERSION)\n        if False:\n",
            ),
        ),
    ),
    "newer-spool-quarantined": BrokenBuild(
        meaning="a spool of a later version is taken for a damaged one and moved to quarantine",
        patches=(
            Patch(
                file="shipper/retention/quarantine.py",
                old="        if isinstance(error, NewerFormat) or (isinstance",
                new="        if (isinstance",
            ),
        ),
    ),
    "replay-starts-over": BrokenBuild(
        meaning="a replay that was killed starts again from the beginning",
        patches=(
            Patch(
                file=_LEDGER,
                old="        return unfinished[0] if unfinished else max(numbers, default=0) + 1\n",
                new="        return max(numbers, default=0) + 1\n",
            ),
        ),
    ),
    "replay-sends-file-again": BrokenBuild(
        meaning="the position in a replayed file is saved under another name each time",
        patches=(
            Patch(
                file="shipper/replay/plan.py",
                old="    yield _part(request, ledger, first, sink,"
                " resend=False, pending=pending)\n",
                new="    part = _part(request, ledger, first, sink,"
                " resend=False, pending=pending)\n"
                '    entry = f"{sink.name}~file~{time.time_ns()}"\n'
                "    yield part if found.live else replace(part, entry=entry)\n",
            ),
            Patch(
                file="shipper/replay/plan.py",
                old="from collections import Counter\n",
                new="import time\nfrom collections import Counter\n",
            ),
        ),
    ),
    "replay-moves-the-live-position": BrokenBuild(
        meaning="a replay moves the position of the service",
        patches=(
            Patch(
                file=_REPLAY,
                old="        sent = pipeline.take_delivered()\n",
                new="        sent = pipeline.take_delivered()\n"
                "        from shipper.ledger.ledger import CommitDelta\n"
                "        context.ledger.acknowledge("
                "part.spool, part.sink, pipeline.position, CommitDelta())\n",
            ),
        ),
    ),
    "receipt-before-the-end": BrokenBuild(
        meaning="the receipt of a replay is written before anything is sent",
        patches=(
            Patch(
                file=_REPLAY,
                old="            if not _send(part, context, delivered):\n                break\n",
                new="            context.ledger.end_replays([receipt_of(part)])\n"
                "            if not _send(part, context, delivered):\n                break\n",
            ),
        ),
    ),
    "replay-ends-part-by-part": BrokenBuild(
        meaning="a part of a replay is recorded as complete while others are pending",
        patches=(
            Patch(
                file=_REPLAY,
                old="            receipts.append(receipt_of(part, rejected))\n",
                new="            receipts.append(receipt_of(part, rejected))\n"
                "            context.ledger.end_replays(receipts[-1:])\n",
            ),
        ),
    ),
    "receipt-not-compared": BrokenBuild(
        meaning="the audit accepts a receipt without comparing it with the records on disk",
        patches=(
            Patch(
                file="shipper/replay/verify.py",
                old="            if found != piece:\n",
                new="            if found is None:\n",
            ),
        ),
    ),
}
