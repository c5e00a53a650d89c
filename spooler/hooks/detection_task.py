"""Detects what a run works with, beside training, and records what was found."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from spooler import detection, stderr
from spooler.hooks import names
from spooler.hooks.tracked_run import TrackedRun
from spooler.recorder import recorder
from spooler.records import detection as detection_record


class DetectionTask:
    """Detects on the background thread, and once more when more frameworks have been imported.

    The second detection comes when the set of imported frameworks has changed, and then stayed the
    same for `_SETTLED` ticks: not in the middle of the program's imports.
    """

    _SETTLED = 5

    def __init__(
        self, tracked: TrackedRun, announced: Mapping[str, Any], config: Mapping[str, Any]
    ) -> None:
        self._facts = detection.RunFacts(
            project=announced.get("project", ""),
            name=announced.get("name", ""),
            id=tracked.run,
            config=config,
            tags=tuple(announced.get("tags", ())),
            names={name: announced[name] for name in names.Names._fields if name in announced},
        )
        self._tracker = tracked.tracker
        self._looks = 0
        self._seen: frozenset[str] = frozenset()
        self._candidate: frozenset[str] = frozenset()
        self._quiet = 0

    def __call__(self) -> bool:
        """Run once; whether to be called again at the next tick."""
        try:
            return self._detect_if_due()
        except Exception as error:  # noqa: BLE001 - runs beside training code: nothing escapes
            recorder().bug(error)
            return False

    def _detect_if_due(self) -> bool:
        imported = detection.imported_frameworks(sys.modules)
        if self._looks == 0:
            self._detect(imported)
            return True
        if imported == self._seen:
            return True
        self._quiet = self._quiet + 1 if imported == self._candidate else 0
        self._candidate = imported
        if self._quiet < self._SETTLED:
            return True
        self._detect(imported)
        return False

    def _detect(self, imported: frozenset[str]) -> None:
        self._looks += 1
        self._seen = self._candidate = imported
        found = detection.collect(self._facts, os.environ, sys.modules)
        body = detection_record.encode(
            run=self._facts.id,
            time=time.time(),
            look=self._looks,
            tracker=self._tracker,
            evidence=found["evidence"],
            hints=found["hints"],
        )
        if recorder().record(detection_record.NAME, body):
            hints = found["hints"]
            stderr.debug(
                "Framework detection data queued for reporting\n"
                f"  Detected frameworks: {hints.get('possible_frameworks')}\n"
                f"  Confidence: {hints.get('confidence')}"
            )
