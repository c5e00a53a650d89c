r"""Megatron-LM, Megatron-Bridge, Megatron-DeepSpeed and Primus, which print on the last rank.

```
 [2025-04-13 23:41:12] iteration       10/    1000 | consumed samples:          160 | … |
 validation loss at iteration 1000 | lm loss value: 2.352391E+00 | lm loss PPL: 1.05107E+01 |
```

Primus prints a mean behind a value (`2701.3/2712.7`), and memory as a group of four values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from spooler.loglines import Row
from spooler.loglines.text import number

MARKS = ("elapsed time per iteration", "validation loss at iteration")
SOLE_WRITER = True

_TRAINING = re.compile(r"\biteration\s{1,16}(\d{1,18})/\s{0,16}(?:\d{1,18}|infinity)\s{0,4}\|")
_VALIDATION = re.compile(r"\bvalidation loss at iteration (\d{1,18})\b([^|]{0,100})\|")
_FIELDS = 100  # of a line

# As printed -> as `SummaryWriter` and wandb get it.
_NAMES = {
    "elapsed time per iteration (ms)": "iteration-time",
    "elapsed time per iteration (s)": "iteration-time",
    "throughput per GPU (TFLOP/s/GPU)": "throughput",
    "energy per GPU (J/iter/GPU)": "iter-energy/gpu",
    "power per GPU (W/GPU)": "power/gpu",
    "learning rate": "learning-rate",
    "decoupled learning rate": "decoupled-learning-rate",
    "global batch size": "batch-size",
    "skipped samples": "skipped-train-samples",
    "loss scale": "loss-scale",
    "grad norm": "grad-norm",
    "num zeros": "num-zeros",
    "params norm": "params-norm",
}
# Of a line that has the tokens, which Primus prints.
_TOKENS = "tokens per GPU (tokens/s/GPU)"
_PRIMUS_NAMES = {
    **_NAMES,
    "throughput per GPU (TFLOP/s/GPU)": "throughput(tflops/sec/gpu)",
    _TOKENS: "token_throughput(tokens/sec/gpu)",
}
_MEMORY = " mem usage/free/total/usage_ratio"
_MEMORY_NAMES = ("used_mem(GiB)", "free_mem(GiB)", "total_mem(GiB)", "mem_usage(%)")


def parse(line: str) -> Row | None:
    found = _TRAINING.search(line)
    if found is not None and "elapsed time per iteration" in line:
        names = _PRIMUS_NAMES if _TOKENS in line else _NAMES
        return Row(int(found[1]), dict(_training(line[found.end() :], names)))
    found = _VALIDATION.search(line)
    if found is not None:
        kind = "test" if "test" in found[2] else "validation"
        return Row(int(found[1]), dict(_validation(line[found.end() :], kind)))
    return None


def _fields(text: str) -> Iterator[tuple[str, str]]:
    for field in text.split("|", _FIELDS)[:_FIELDS]:
        name, _, printed = field.partition(":")
        yield name.strip(), printed


def _training(text: str, names: dict[str, str]) -> Iterator[tuple[str, float]]:
    for name, printed in _fields(text):
        if name.endswith(_MEMORY):
            yield from _memory(name.removesuffix(_MEMORY), printed)
            continue
        found = number(printed)
        if found is not None and not name.startswith("rank-"):
            is_ms = name.endswith("iteration (ms)")
            yield names.get(name, name), found / 1000 if is_ms else found


def _memory(collector: str, printed: str) -> Iterator[tuple[str, float]]:
    for name, part in zip(_MEMORY_NAMES, printed.split("/"), strict=False):
        found = number(part)
        if found is not None:
            yield f"{collector}_{name}", found


def _validation(text: str, kind: str) -> Iterator[tuple[str, float]]:
    for name, printed in _fields(text):
        loss, _, what = name.rpartition(" ")
        found = number(printed)
        if found is not None and what in ("value", "PPL"):
            yield f"{loss} {kind}" if what == "value" else f"{loss} {kind} ppl", found
