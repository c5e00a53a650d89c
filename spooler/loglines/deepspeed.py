"""DeepSpeed, which prints on rank 0. Several lines have the numbers of one step.

```
[2023-11-07 01:55:23,711] [INFO] [logging.py:96:log_dist] [Rank 0] step=10, skipped=4, lr=[…], …
[2023-11-07 01:55:23,714] [INFO] [timer.py:260:stop] epoch=0/micro_step=40/global_step=10, Run…
steps: 10 loss: 2.3026 iter time (s): 0.110 samples/sec: 145.454
```

The names are those of its monitor, which draws them over samples. Here the step is the iteration.
"""

from __future__ import annotations

import re

from spooler.loglines import Row
from spooler.loglines.text import VALUE, value

MARKS = (" skipped=", "SamplesPerSec=", "iter time (s): ")
SOLE_WRITER = True

_STEP = re.compile(
    rf"\bstep=(\d{{1,18}}), skipped=(\d{{1,18}}), lr=\[(?:np\.float\d\d\()?({VALUE})[\],)]"
)
_SPEED = re.compile(r"(?:global_step=|\b\d{1,18}/)(\d{1,18}), (?=(?:RunningAvg)?SamplesPerSec=)")
_SPEEDS = re.compile(
    rf"\b((?:RunningAvg|Curr)?SamplesPerSec|(?:Max)?MemAllocated)=({VALUE})(?:GB)?(?:,|$)"
)
_PIPELINE = re.compile(
    rf"\bsteps?: {{0,8}}(\d{{1,18}})(?: / {{1,8}}\d{{1,18}})? loss: ({VALUE})"
    rf" iter time \(s\): ({VALUE}) samples/sec: ({VALUE})"
)


def parse(line: str) -> Row | None:
    if found := _STEP.search(line):
        return Row(int(found[1]), {"Train/Samples/lr": value(found[3]), "skipped": int(found[2])})
    if found := _SPEED.search(line):
        speeds = _SPEEDS.finditer(line, found.end())
        return Row(int(found[1]), {one[1]: value(one[2]) for one in speeds})
    if found := _PIPELINE.search(line):
        names = ("Train/Samples/train_loss", "iter time (s)", "samples/sec")
        values = map(value, found.groups()[1:])
        return Row(int(found[1]), dict(zip(names, values, strict=True)))
    return None
