"""An axis that the user has given to metrics: one call of wandb's `define_metric`."""

from __future__ import annotations

from typing import NamedTuple

from spooler.records.schema import Schema

NAME = "axis"


class AxisRecord(NamedTuple):
    """The arguments of the call, as far as they decide about axes; see `spooler.records.axes`."""

    run: str
    time: float
    name: str  # of the metric, or the beginning of names and a `*`
    step_metric: str = ""  # the metric that is the axis
    step_sync: bool = False  # rows without the axis get its last value
    overwrite: bool = False  # nothing of earlier calls for the name counts


_schema = Schema(AxisRecord)
encode, decode = _schema.encode, _schema.decode

EXAMPLE = encode(
    run="4x7k2m9q",
    time=1700000000.0,
    name="*",
    step_metric="train/global_step",
    step_sync=True,
)
