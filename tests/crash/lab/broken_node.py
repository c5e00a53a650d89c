"""Broken builds of what a node promises: disk, clock, isolation, dead processes, the account."""

from __future__ import annotations

from tests.crash.lab.patches import Mutant, Patch

NODE_MUTANTS: dict[str, Mutant] = {
    "ends-not-looked-for": Mutant(
        meaning="nobody looks whether the process of a spool is still there",
        patches=(
            Patch(
                file="shipper/discovery/poller.py",
                old="        one.liveness = one.reader.liveness()\n",
                new="        one.liveness = Liveness(alive=True)\n",
            ),
        ),
    ),
    "silence-is-death": Mutant(
        meaning="a process that has not written for a moment is taken for dead",
        patches=(
            Patch(
                file="spooler/spool/owner.py",
                old="        return _ALIVE if lock is Lock.HELD else judge(self._evidence(lock))\n",
                new="        quiet = self._evidence(lock).quiet > 0.6\n"
                "        alive = lock is Lock.HELD and not quiet\n"
                "        return _ALIVE if alive else _KILLED\n",
            ),
        ),
    ),
    "goodbye-is-not-heard": Mutant(
        meaning="a process that ended in order is said to have been cut off",
        patches=(
            Patch(
                file="shipper/steps.py",
                old='    if any(stored.kind == "exit" for stored in tail):\n',
                new="    if not tail:\n",
            ),
            Patch(
                file="spooler/spool/owner.py",
                old="_ENDED = Liveness(alive=False, certain=True, unclean=False)\n",
                new="_ENDED = Liveness(alive=False, certain=True, unclean=True)\n",
            ),
        ),
    ),
    "counts-are-saved-later": Mutant(
        meaning="most positions are saved without what has been settled on the way",
        patches=(
            Patch(
                file="shipper/ledger/ledger.py",
                old="        if not delta.dropped:\n"
                "            with self.connection() as database:\n",
                new="        self._later = getattr(self, '_later', {})\n"
                "        before = self._later.pop((spool, sink), CommitDelta())\n"
                "        import dataclasses\n"
                "        delta = dataclasses.replace(\n"
                "            delta,\n"
                "            delivered=delta.delivered + before.delivered,\n"
                "            skipped=delta.skipped + before.skipped,\n"
                "        )\n"
                "        if position.seq % 2:\n"
                "            self._later[spool, sink] = delta\n"
                "            delta = CommitDelta()\n"
                "        if not delta.dropped:\n"
                "            with self.connection() as database:\n",
            ),
        ),
    ),
    "refused-and-not-kept": Mutant(
        meaning="what the receiver refuses for good is passed over, and no dead letter",
        patches=(
            Patch(
                file="shipper/delivery/pipeline.py",
                old="            if self._ledger.add_dead_letter(\n",
                new="            if (lambda _letter: one.stored.seq % 2)(\n",
            ),
        ),
    ),
    "refused-counts-as-delivered": Mutant(
        meaning="a dead letter is counted as delivered, too",
        patches=(
            Patch(
                file="shipper/delivery/pipeline.py",
                old="        self._commit(batch, requests=1)\n",
                new="        self._commit(batch, delivered=len(batch.seqs), requests=1)\n",
            ),
        ),
    ),
    "dropped-and-not-counted": Mutant(
        meaning="what is deleted undelivered for the limit of the root is counted nowhere",
        patches=(
            Patch(
                file="shipper/ledger/ledger.py",
                old="            count = _add_lost(database, spool, sink, lost)\n",
                new="            count = through - position.seq\n",
            ),
        ),
    ),
    "spool-limit-not-kept": Mutant(
        meaning="no writer looks at what its spool takes",
        patches=(
            Patch(
                file="spooler/spool/writer.py",
                old='        if self._used() > self._limits.max_bytes:\n            return "cap"\n',
                new="",
            ),
        ),
    ),
    "root-limit-not-kept": Mutant(
        meaning="the service does not tell writers that the root is full",
        patches=(
            Patch(
                file="shipper/retention/cleaner.py",
                old="full=over_by > 0 and (was_blocked or not self._blocked))\n",
                new="full=False)\n",
            ),
        ),
    ),
    "writer-deletes-undelivered": Mutant(
        meaning="a writer deletes its oldest segments though the policy is drop-newest",
        patches=(
            Patch(
                file="spooler/spool/writer.py",
                old='        return self._above == "cap" and self._limits.drop_oldest\n',
                new='        return self._above == "cap"\n',
            ),
        ),
    ),
    "service-deletes-undelivered": Mutant(
        meaning="the service deletes what is not delivered though the policy is drop-newest",
        patches=(
            Patch(
                file="shipper/retention/cleaner.py",
                old='        if over_by > 0 and self._config.when_full == "drop-oldest":\n',
                new="        if over_by > 0:\n",
            ),
        ),
    ),
    "deletion-not-told": Mutant(
        meaning="what a writer deletes is told by no gap",
        patches=(
            Patch(
                file="spooler/spool/writer.py",
                old="                self._tell_deleted(oldest)\n",
                new="",
            ),
        ),
    ),
    "deleted-before-acknowledged": Mutant(
        meaning="what was read counts as delivered when it comes to deleting",
        patches=(
            Patch(
                file="shipper/delivery/queue.py",
                old="(member.pipeline.position.seq, member.finished)",
                new="(member.pipeline._through, member.finished)",
            ),
        ),
    ),
    "the-slow-among-the-others": Mutant(
        meaning="workloads whose requests hang take the workers of all the others",
        patches=(
            Patch(
                file="shipper/delivery/workers.py",
                old="    return key[0], queues[key].is_slow()\n",
                new="    return key[0], False and queues[key].is_slow()\n",
            ),
        ),
    ),
    "trouble-of-one-counts-for-all": Mutant(
        meaning="everybody waits when one workload is answered wrongly",
        patches=(
            Patch(
                file="shipper/delivery/queue.py",
                old="        if outcome.disposition is Disposition.RETRY"
                ' and outcome.scope == "sink":\n',
                new="        if outcome.disposition is Disposition.RETRY:\n",
            ),
        ),
    ),
    "a-turn-without-end": Mutant(
        meaning="a spool has its turn until there is nothing left in it",
        patches=(
            Patch(
                file="shipper/delivery/queue.py",
                old="                until=self._now() + TURN_SECONDS,\n",
                new="                until=self._now() + 1000 * TURN_SECONDS,\n",
            ),
        ),
    ),
    "rubbish-ends-the-walk": Mutant(
        meaning="what cannot be read ends the walk over the root",
        patches=(
            Patch(
                file="shipper/discovery/scanner.py",
                old="        except (SpoolError, Misplaced, OSError) as error:\n",
                new="        except (Misplaced, OSError) as error:\n",
            ),
            Patch(
                file="shipper/discovery/scanner.py",
                old="            self._try_to_add(directory)\n        except Exception:\n",
                new="            self._try_to_add(directory)\n        except ValueError:\n",
            ),
        ),
    ),
    "retry-by-wall-clock": Mutant(
        meaning="everything that is waited for is reckoned by the wall clock",
        patches=(
            Patch(
                file="shipper/app.py",
                old="        self.now = time.monotonic\n",
                new="        self.now = time.time\n",
            ),
        ),
    ),
    "retention-by-wall-clock": Mutant(
        meaning="the age of a segment is what the wall clock says now",
        patches=(
            Patch(
                file="shipper/retention/deletable.py",
                old="        return self._now() - known[1]\n",
                new="        return self._wall() - written\n",
            ),
        ),
    ),
    "order-by-wall-clock": Mutant(
        meaning="steps are sent in the order of the times that they hold",
        patches=(
            Patch(
                file="shipper/sinks/processor/metrics.py",
                old="sorted([*steps.complete, *ripe], key=lambda step: step.first)",
                new="sorted([*steps.complete, *ripe], key=lambda step: step.time)",
            ),
        ),
    ),
}
