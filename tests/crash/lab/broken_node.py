"""Broken builds of what a node promises: disk, clock, isolation, dead processes, the account."""

from __future__ import annotations

from tests.crash.lab.patches import Mutant, Patch

NODE_MUTANTS: dict[str, Mutant] = {
    "ends-not-looked-for": Mutant(
        meaning="nobody looks whether the process of a spool is still there",
        patches=(
            Patch(
                file="shipper/lanes/pulse.py",
                old="        gone = not reader.is_owned()\n",
                new="        gone = False\n",
            ),
        ),
    ),
    "silence-is-death": Mutant(
        meaning="a process that has not written for a moment is taken for dead",
        patches=(
            Patch(
                file="spooler/spool/segments.py",
                old="            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)\n",
                new="            import time\n"
                "            newest = max(map(self.written_at, self.segments()), default=0.0)\n"
                "            if time.time() - newest > 0.6:\n"
                "                return False\n"
                "            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)\n",
            ),
        ),
    ),
    "goodbye-is-not-heard": Mutant(
        meaning="a process that ended in order is said to have been cut off",
        patches=(
            Patch(
                file="shipper/batch/batcher.py",
                old='    if not tail or tail[-1].kind == "exit":\n',
                new="    if not tail:\n",
            ),
        ),
    ),
    "counts-are-saved-later": Mutant(
        meaning="most positions are saved without what has been settled on the way",
        patches=(
            Patch(
                file="shipper/ledger/ledger.py",
                old="        if not settled.dropped:\n            with self.using() as database:\n",
                new="        self._later = getattr(self, '_later', {})\n"
                "        before = self._later.pop((spool, sink), Settled())\n"
                "        import dataclasses\n"
                "        settled = dataclasses.replace(\n"
                "            settled,\n"
                "            delivered=settled.delivered + before.delivered,\n"
                "            passed=settled.passed + before.passed,\n"
                "        )\n"
                "        if position.seq % 2:\n"
                "            self._later[spool, sink] = settled\n"
                "            settled = Settled()\n"
                "        if not settled.dropped:\n"
                "            with self.using() as database:\n",
            ),
        ),
    ),
    "refused-and-not-kept": Mutant(
        meaning="what the receiver refuses for good is passed over, and no dead letter",
        patches=(
            Patch(
                file="shipper/lanes/pipeline.py",
                old="if self._ledger.bury(self._letter(one))]\n",
                new="if one.stored.seq % 2]\n",
            ),
        ),
    ),
    "refused-counts-as-delivered": Mutant(
        meaning="a dead letter is counted as delivered, too",
        patches=(
            Patch(
                file="shipper/lanes/pipeline.py",
                old="        self._settle(parcel, delivered=0, requests=1)\n",
                new="        self._settle(parcel, delivered=len(parcel.seqs), requests=1)\n",
            ),
        ),
    ),
    "given-up-and-not-counted": Mutant(
        meaning="what is deleted undelivered for the limit of the root is counted nowhere",
        patches=(
            Patch(
                file="shipper/ledger/ledger.py",
                old="            count = _lose(database, spool, sink, lost)\n",
                new="            count = through - position.seq\n",
            ),
        ),
    ),
}
