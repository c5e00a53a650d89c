"""torchtitan, and Primus with it. Every rank prints the loss of all.

```
[rank0]:[titan] 2025-03-12 11:10:21,511 - root - INFO - step: 22  loss:  6.2250  grad_norm: …
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from spooler.loglines import Row
from spooler.loglines.text import VALUE, value

MARKS = ("step: ",)
SOLE_WRITER = False

_STEP = re.compile(r"(?:\b(validate) )?\bstep: {1,16}(\d{1,18}) {1,8}loss:")
_FIELD = re.compile(rf"\b([a-z_]{{1,32}}): {{0,16}}({VALUE})(?:GiB)?(?:\(({VALUE})%\))?")
_NO_LOSS = -1  # of ranks that are not in the last stage of a pipeline

# As printed -> as `SummaryWriter` and wandb get it; the second name is that of the value in %.
_NAMES = {
    "loss": ("loss_metrics/global_avg_loss", ""),
    "memory": ("memory/max_reserved(GiB)", "memory/max_reserved(%)"),
    "tps": ("throughput(tps)", ""),
    "mfu": ("mfu(%)", ""),
}
_VALIDATION = "validation_metrics/"


def parse(line: str) -> Row | None:
    found = _STEP.search(line)
    if found is None:
        return None
    printed = {one[1]: one for one in _FIELD.finditer(line, found.end() - len("loss:"))}
    if not {"loss", "memory", "tps"} <= printed.keys() or value(printed["loss"][2]) == _NO_LOSS:
        return None
    return Row(int(found[2]), dict(_values(printed, is_validation=bool(found[1]))))


def _values(
    printed: dict[str, re.Match[str]], *, is_validation: bool
) -> Iterator[tuple[str, float]]:
    for key, one in printed.items():
        name, percent = _NAMES.get(key, (key, ""))
        if is_validation:
            name = _VALIDATION + ("loss" if key == "loss" else name)
            percent = _VALIDATION + percent
        yield name, value(one[2])
        if one[3] is not None:
            yield percent, value(one[3])
