"""The dicts that the Trainer of Transformers prints, TRL's too.

```
{'loss': '0.6931', 'grad_norm': '1.21', 'learning_rate': '5e-05', 'epoch': '0.1'}
```

Transformers before 5 prints numbers without quotes. The step stands only in the progress bar, which
is drawn again right after such a line.
"""

from __future__ import annotations

import re

from spooler.loglines import Row
from spooler.loglines.text import VALUE, value

MARKS = ("'epoch': ",)
SOLE_WRITER = False

_ITEM = re.compile(rf"'([^'{{}}]{{1,200}})': ('?)({VALUE})\2(?=[,}}])")


def parse(line: str) -> Row | None:
    begin, end = line.find("{'"), line.rstrip().rfind("}")
    if begin < 0 or end != len(line.rstrip()) - 1:
        return None
    values = {one[1]: value(one[3]) for one in _ITEM.finditer(line, begin)}
    return Row(None, values) if "epoch" in values and len(values) > 1 else None
