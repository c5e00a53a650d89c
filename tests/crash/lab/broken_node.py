"""Broken builds of what a node promises: disk, clock, isolation, dead processes, the account."""

from __future__ import annotations

from tests.crash.lab.patches import BrokenBuild, Patch

NODE_BUILDS: dict[str, BrokenBuild] = {
    "ended-processes-not-checked": BrokenBuild(
        meaning="the service does not check whether the process of a spool still runs",
        patches=(
            Patch(
                file="shipper/discovery/poller.py",
                old="        one.liveness = reader.liveness(folder)\n",
                new="        one.liveness = Liveness(alive=True)\n",
            ),
        ),
    ),
    "silent-processes-reported-dead": BrokenBuild(
        meaning="a process that has written nothing for a moment is reported as dead",
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
    "clean-shutdown-not-read": BrokenBuild(
        meaning="a clean shutdown is reported as an unclean exit",
        patches=(
            Patch(
                file="shipper/steps.py",
                old='        if stored.kind == "exit":\n            return ()\n',
                new='        if stored.kind == "exit":\n            continue\n',
            ),
            Patch(
                file="spooler/spool/owner.py",
                old="_ENDED = Liveness(alive=False, certain=True, unclean=False)\n",
                new="_ENDED = Liveness(alive=False, certain=True, unclean=True)\n",
            ),
        ),
    ),
    "counts-saved-later": BrokenBuild(
        meaning="most positions are saved without the counts of what was acknowledged",
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
    "rejected-and-not-kept": BrokenBuild(
        meaning="a record that the receiver rejects is skipped, and no dead letter is kept",
        patches=(
            Patch(
                file="shipper/delivery/pipeline.py",
                old="            if self._ledger.add_dead_letter(\n",
                new="            if (lambda _letter: one.stored.seq % 2)(\n",
            ),
        ),
    ),
    "rejected-counts-as-delivered": BrokenBuild(
        meaning="a dead letter is counted as delivered, too",
        patches=(
            Patch(
                file="shipper/delivery/pipeline.py",
                old="        self._commit(batch, requests=1)\n",
                new="        self._commit(batch, delivered=len(batch.seqs), requests=1)\n",
            ),
        ),
    ),
    "dropped-and-not-counted": BrokenBuild(
        meaning="records that are dropped for the limit of the root are not counted",
        patches=(
            Patch(
                file="shipper/ledger/ledger.py",
                old="            count = _add_lost(database, spool, sink, lost)\n",
                new="            count = through - position.seq\n",
            ),
        ),
    ),
    "spool-limit-not-kept": BrokenBuild(
        meaning="the writer does not check how much disk its spool takes",
        patches=(
            Patch(
                file="spooler/spool/writer.py",
                old='        if self._used() > self._limits.max_bytes:\n            return "cap"\n',
                new="",
            ),
        ),
    ),
    "root-limit-not-kept": BrokenBuild(
        meaning="the service does not tell writers that the root is full",
        patches=(
            Patch(
                file="shipper/retention/cleaner.py",
                old="full=over_by > 0 and (was_blocked or not self._blocked))\n",
                new="full=False)\n",
            ),
        ),
    ),
    "writer-deletes-undelivered": BrokenBuild(
        meaning="a writer deletes its oldest segments though the policy is drop-newest",
        patches=(
            Patch(
                file="spooler/spool/writer.py",
                old='        return self._above == "cap" and self._limits.drop_oldest\n',
                new='        return self._above == "cap"\n',
            ),
        ),
    ),
    "service-deletes-undelivered": BrokenBuild(
        meaning="the service deletes pending records though the policy is drop-newest",
        patches=(
            Patch(
                file="shipper/retention/cleaner.py",
                old='        if over_by > 0 and self._config.when_full == "drop-oldest":\n',
                new="        if over_by > 0:\n",
            ),
        ),
    ),
    "deletion-not-recorded": BrokenBuild(
        meaning="a writer deletes segments and records no gap",
        patches=(
            Patch(
                file="spooler/spool/writer.py",
                old="                self._tell_deleted(oldest)\n",
                new="",
            ),
        ),
    ),
    "deleted-before-acknowledged": BrokenBuild(
        meaning="records that were read count as acknowledged when segments are deleted",
        patches=(
            Patch(
                file="shipper/delivery/queue.py",
                old="(member.pipeline.position.seq, member.finished)",
                new="(member.pipeline._through, member.finished)",
            ),
        ),
    ),
    "slow-workloads-not-separated": BrokenBuild(
        meaning="workloads whose requests hang take the workers of all others",
        patches=(
            Patch(
                file="shipper/delivery/workers.py",
                old="    return key[0], queues[key].is_slow()\n",
                new="    return key[0], False and queues[key].is_slow()\n",
            ),
        ),
    ),
    "one-failing-workload-pauses-all": BrokenBuild(
        meaning="a wrong answer for one workload pauses the whole sink",
        patches=(
            Patch(
                file="shipper/delivery/queue.py",
                old="        of_sink = outcome.disposition is Disposition.RETRY"
                ' and outcome.scope == "sink"\n',
                new="        of_sink = outcome.disposition is Disposition.RETRY\n",
            ),
            Patch(
                file="shipper/delivery/policy.py",
                old="        return len(self.witnesses) > 1\n",
                new="        return True\n",
            ),
        ),
    ),
    "turn-without-limit": BrokenBuild(
        meaning="a spool keeps its turn until it has no pending records",
        patches=(
            Patch(
                file="shipper/delivery/queue.py",
                old="                until=self._now() + TURN_SECONDS,\n",
                new="                until=self._now() + 1000 * TURN_SECONDS,\n",
            ),
        ),
    ),
    "garbage-ends-the-scan": BrokenBuild(
        meaning="an unreadable spool ends the scan of the root",
        patches=(
            Patch(
                file="shipper/discovery/scanner.py",
                old="        except (SpoolError, Misplaced, OSError) as error:\n",
                new="        except (Misplaced, OSError) as error:\n",
            ),
            Patch(
                file="shipper/discovery/scanner.py",
                old='        except Exception:\n            why = "internal error',
                new='        except ValueError:\n            why = "internal error',
            ),
        ),
    ),
    "retry-by-wall-clock": BrokenBuild(
        meaning="backoff and intervals are measured by the wall clock",
        patches=(
            Patch(
                file="shipper/app.py",
                old="        self.now = time.monotonic\n",
                new="        self.now = time.time\n",
            ),
        ),
    ),
    "retention-by-wall-clock": BrokenBuild(
        meaning="the age of a segment is measured by the wall clock",
        patches=(
            Patch(
                file="shipper/retention/deletable.py",
                old="        return self._now() - known[1]\n",
                new="        return self._wall() - written\n",
            ),
        ),
    ),
    "order-by-wall-clock": BrokenBuild(
        meaning="steps are sent in the order of their recorded times",
        patches=(
            Patch(
                file="shipper/steps.py",
                old="sorted([*self.complete, *self.blocks, *ripe], key=_SEQS)",
                new=(
                    "sorted([*self.complete, *(one for block in self.blocks for one in"
                    " block.steps()), *ripe], key=lambda one: one.time)"
                ),
            ),
        ),
    ),
}
