"""Deliberately broken builds: copies of the tree, each with one mistake that an attack must notice.

A patch names text that occurs exactly once in its file. When the product changes so that one no
longer applies, that is an error and not a pass: correct it here, so that it makes the same mistake.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.crash.lab.broken_log import LOG_BUILDS
from tests.crash.lab.broken_master import MASTER_BUILDS
from tests.crash.lab.broken_node import NODE_BUILDS
from tests.crash.lab.broken_spool import SPOOL_BUILDS
from tests.crash.lab.broken_state import STATE_BUILDS
from tests.crash.lab.broken_training import TRAINING_BUILDS
from tests.crash.lab.laboratory import REPOSITORY
from tests.crash.lab.patches import BrokenBuild, Patch

_COPIED = ("spooler", "shipper", "tests", "examples", "bench")


def patched(broken_build: BrokenBuild) -> dict[str, str]:
    """The files that a broken build changes, as it has them.

    Raises:
        Stale: a patch does not apply.
    """
    texts: dict[str, str] = {}
    for patch in broken_build.patches:
        before = texts.get(patch.file) or (REPOSITORY / patch.file).read_text(encoding="utf-8")
        texts[patch.file] = patch.applied(before)
    return texts


def build(name: str, directory: Path) -> Path:
    """Make the broken build `name` in `directory`, unless it is there; the tree to run from."""
    tree = directory / name
    if tree.exists():
        return tree
    texts = patched(BROKEN_BUILDS[name])
    for part in _COPIED:
        shutil.copytree(
            REPOSITORY / part, tree / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file, text in texts.items():
        (tree / file).write_text(text, encoding="utf-8")
    return tree


_WRITER = "spooler/spool/writer.py"
_RECORDER = "spooler/recorder.py"
_PIPELINE = "shipper/delivery/pipeline.py"
_BACKOFF = "shipper/delivery/backoff.py"

BROKEN_BUILDS: dict[str, BrokenBuild] = {
    "no-commit-before-return": BrokenBuild(
        meaning="a record is committed together with later ones, after its append has returned",
        patches=(
            Patch(
                file=_WRITER,
                old="                        insert(fmt.INSERT_RECORD, row)\n",
                new="                        if not connection.in_transaction:\n"
                '                            connection.execute("BEGIN")\n'
                "                        insert(fmt.INSERT_RECORD, row)\n"
                "                        if seq % 4 == 0:\n"
                '                            connection.execute("COMMIT")\n',
            ),
        ),
    ),
    "rotate-without-closing": BrokenBuild(
        meaning="the seqs of a new segment begin before the old segment has its last record",
        patches=(
            Patch(
                file=_WRITER,
                old="        new.next_seq = max(new.next_seq, _next_seq(new))\n",
                new="        new.next_seq = max(new.next_seq, _next_seq(new)) - 1\n",
            ),
        ),
    ),
    "rotate-early": BrokenBuild(
        meaning="the last record of a segment is deleted at the rotation",
        patches=(
            Patch(
                file=_WRITER,
                old="        self._retired.append(segment)\n",
                new="        segment.connection.execute(\n"
                '            "DELETE FROM record WHERE seq = (SELECT max(seq) FROM record)")\n'
                "        self._retired.append(segment)\n",
            ),
        ),
    ),
    "acknowledge-before-send": BrokenBuild(
        meaning="the position is saved before the receiver has the data",
        patches=(
            Patch(
                file=_PIPELINE,
                old="        outcome = self._send(batch, attempt)\n",
                new="        self._batches.popleft()\n"
                "        self._commit(batch, delivered=len(batch.seqs), requests=1)\n"
                "        self._batches.appendleft(batch)\n"
                "        outcome = self._send(batch, attempt)\n",
            ),
        ),
    ),
    "position-too-high": BrokenBuild(
        meaning="the saved position includes records that are still pending",
        patches=(
            Patch(
                file=_PIPELINE,
                old="        seq = min(waiting) - 1 if waiting else self._through\n",
                new="        seq = self._through\n",
            ),
        ),
    ),
    "position-not-saved": BrokenBuild(
        meaning="most positions are not saved, so that more than one request is repeated",
        patches=(
            Patch(
                file=_PIPELINE,
                old="        self._ledger.acknowledge(self.identity.spool,",
                new="        (self._ledger.acknowledge if position.seq % 3 == 0"
                " else lambda *_: None)(self.identity.spool,",
            ),
        ),
    ),
    "duplicates-on-retry": BrokenBuild(
        meaning="a request that was delivered is sent once more",
        patches=(
            Patch(
                file=_PIPELINE,
                old="        if outcome.disposition is Disposition.DELIVERED:\n",
                new="        if outcome.disposition is Disposition.DELIVERED:\n"
                "            self.sink.send(batch, self.identity, attempt)\n",
            ),
        ),
    ),
    "no-sync": BrokenBuild(
        meaning="the log is reported as synced and was never synced",
        patches=(
            Patch(
                file="spooler/spool/sync.py",
                old="            _sync(log, os.O_RDWR)\n",
                new="            pass\n",
            ),
        ),
    ),
    "no-sync-at-once": BrokenBuild(
        meaning="a start and a detection wait for the next sync like any record",
        patches=(
            Patch(
                file="spooler/spool/sync.py",
                old="        self._urgent = True\n",
                new="        pass\n",
            ),
        ),
    ),
    "failure-reported-as-success": BrokenBuild(
        meaning="a record that could not be committed is reported as recorded",
        patches=(
            Patch(
                file=_RECORDER,
                old="None if kept else packed)\n                return False\n",
                new="None if kept else packed)\n                return True\n",
            ),
        ),
    ),
    "losses-not-recorded": BrokenBuild(
        meaning="refused records are forgotten instead of written as a gap",
        patches=(
            Patch(
                file=_RECORDER,
                old="                continue  # a signal handler has told it meanwhile\n",
                new="                continue\n"
                "            if loss.count > 1:\n                continue\n",
            ),
        ),
    ),
    "deletion-not-noticed": BrokenBuild(
        meaning="the writer goes on writing to files that were deleted",
        patches=(
            Patch(
                file="spooler/spool/layout.py",
                old="        if file.is_at(segment):\n",
                new="        if file:\n",
            ),
        ),
    ),
    "parent-connection-after-fork": BrokenBuild(
        meaning="a forked child goes on with the spool of its parent",
        patches=(
            Patch(
                file=_RECORDER,
                old="        self.recorder = parent.for_child(silent=not self._held)\n",
                new="        if self._held:\n            parent.release()\n",
            ),
        ),
    ),
    "fork-without-waiting": BrokenBuild(
        meaning="a fork does not wait until every thread has left SQLite, and the child records",
        patches=(
            Patch(
                file=_RECORDER,
                old="        self._held = self.recorder.hold(_FORK_SECONDS)\n",
                new="        self._held = False\n",
            ),
        ),
    ),
    "handler-takes-the-same-number": BrokenBuild(
        meaning="the record of a signal handler replaces the one that it has interrupted",
        patches=(
            Patch(
                file="spooler/spool/format.py",
                old='INSERT_RECORD = "INSERT INTO record',
                new='INSERT_RECORD = "INSERT OR REPLACE INTO record',
            ),
        ),
    ),
    "wakes-with-a-lock": BrokenBuild(
        meaning="the background thread is woken through a lock that a signal handler cannot take",
        patches=(
            Patch(
                file="spooler/background.py",
                old="        self._bell.acquire()\n",
                new="        self._bell.acquire()\n        self._guard = threading.Lock()\n",
            ),
            Patch(
                file="spooler/background.py",
                old="        with async_exceptions.suppress(RuntimeError):  # it is released\n",
                new="        with self._guard, async_exceptions.suppress(RuntimeError):\n",
            ),
        ),
    ),
    "partial-answer-accepted": BrokenBuild(
        meaning="an answer that ends too early is taken for a complete one",
        patches=(
            Patch(
                file="shipper/http_client/client.py",
                old="                content = response.raw.read(limit, decode_content=True)\n",
                new="                try:\n"
                "                    content = response.raw.read(limit, decode_content=True)\n"
                "                except (urllib3.exceptions.HTTPError, OSError):\n"
                """                    content = b'{"meta":{"code":2000}}'\n""",
            ),
        ),
    ),
    "any-200-accepted": BrokenBuild(
        meaning="an answer of 200 is accepted whatever its body holds and whichever server sent it",
        patches=(
            Patch(
                file="shipper/sinks/processor/classify.py",
                old="    envelope = _envelope(answer.body)\n    if envelope is None:\n",
                new="    envelope = _envelope(answer.body)\n    if envelope is None:\n"
                '        return Outcome(disposition=Disposition.DELIVERED, reason="delivered")\n',
            ),
        ),
    ),
    "links-are-followed": BrokenBuild(
        meaning="links and special files in a spool are opened",
        patches=(
            Patch(
                file="spooler/spool/safe_open.py",
                old="    _check_kind(text, status)\n    if _penalized",
                new="    if _penalized",
            ),
            Patch(
                file="spooler/spool/safe_open.py",
                old="    if place != text and os.path.realpath(text) != text:\n",
                new="    if False:\n",
            ),
            Patch(
                file="spooler/spool/safe_open.py",
                old="READING = os.O_RDONLY | os.O_NOFOLLOW | ",
                new="READING = os.O_RDONLY | ",
            ),
            Patch(
                file="spooler/spool/safe_open.py",
                old="_NAMING = os.O_PATH | os.O_NOFOLLOW | ",
                new="_NAMING = os.O_PATH | ",
            ),
        ),
    ),
    "reads-without-limit": BrokenBuild(
        meaning="the time for reading one file of a tenant has no limit",
        patches=(
            Patch(
                file="spooler/spool/source.py",
                old="SECONDS = 5.0\n",
                new="SECONDS = 1e9\n",
            ),
        ),
    ),
    "pod-of-a-spool-not-checked": BrokenBuild(
        meaning="the pod UID that a spool claims is accepted, whatever directory holds the spool",
        patches=(
            Patch(
                file="shipper/discovery/layout.py",
                old="    return replace(identity, pod_uid=inside[0])\n",
                new="    return identity\n",
            ),
        ),
    ),
    **NODE_BUILDS,
    **SPOOL_BUILDS,
    **TRAINING_BUILDS,
    "backoff-without-jitter": BrokenBuild(
        meaning="all senders of one receiver retry at the same moments",
        patches=(
            Patch(
                file=_BACKOFF,
                old="    strategy = wait_random_exponential(multiplier=first, max=cap)\n",
                new="    return float(min(cap, first * 2 ** min(failures - 1, 30)))\n"
                "    strategy = wait_random_exponential(multiplier=first, max=cap)\n",
            ),
        ),
    ),
    "fixed-read-timeout": BrokenBuild(
        meaning="the read timeout does not grow, so that senders disconnect just before their turn",
        patches=(
            Patch(
                file="shipper/sinks/processor/client.py",
                old="TIMEOUT_GROWTH = 10.0\n",
                new="TIMEOUT_GROWTH = 1.0\n",
            ),
        ),
    ),
    **LOG_BUILDS,
    **STATE_BUILDS,
    **MASTER_BUILDS,
}
