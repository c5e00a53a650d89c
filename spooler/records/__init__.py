"""Record kinds: what a record body in the spool means.

Each kind has one module and one line in `REGISTRY`. The module has:

- `NAME`: the `kind` column of the record.
- A NamedTuple: the fields of the body, with their types. It is the only schema.
- `encode(...)`: the body, a map that msgpack can hold. Called by the code that writes this kind.
- `decode(body)`: the record, checked. Called by the readers of this kind. Raises `MalformedBody`.
- `EXAMPLE`: one real body.

Every body has `time`, Unix seconds as a float by the clock of the training process. The order of
records comes from their seq, never from `time`.

How a body may evolve:

- Fields are added. A field is never removed, and never changes its type or meaning.
- A new field is optional: its default is what records without it mean.
- Readers ignore fields that they do not know.
- The service sends kinds that it does not know to no sink, and keeps them.
"""

from __future__ import annotations

REGISTRY: dict[str, str] = {
    "run": "spooler.records.run",
    "step": "spooler.records.step",
    "axis": "spooler.records.axis",
    "finish": "spooler.records.finish",
    "detection": "spooler.records.detection",
    "report": "spooler.records.report",
    "failure": "spooler.records.failure",
    "decision": "spooler.records.decision",
    "gap": "spooler.records.gap",
    "exit": "spooler.records.exit",
}
