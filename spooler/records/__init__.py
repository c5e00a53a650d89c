"""Record kinds: what a body in the spool means.

A kind is one file with `NAME` (the `kind` column), `make(...)` (the body, a map that msgpack can
hold) and `EXAMPLE` (one real body), and one line in `REGISTRY`. All bodies have `time`, Unix
seconds as a float by the clock of the training process; order comes from the seq, never from it.
The service ships kinds that it does not know to nobody, and keeps them.
"""

from __future__ import annotations

REGISTRY: dict[str, str] = {
    "run": "spooler.records.run",
    "step": "spooler.records.step",
    "finish": "spooler.records.finish",
    "detection": "spooler.records.detection",
    "report": "spooler.records.report",
    "decision": "spooler.records.decision",
    "gap": "spooler.records.gap",
    "exit": "spooler.records.exit",
}
