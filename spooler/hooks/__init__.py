"""Hooks: what a program logs to an experiment tracker is recorded, without a change of its code.

A hook is one module and one line in `REGISTRY`. The key is the name of the tracker's package. The
hook is applied when the program imports that package. The module has:

- `wrap(module)`: put wrappers in place of the tracker's functions. A second call changes nothing.
- `unwrap(module)`: put the tracker's own functions back. What is recorded stays recorded.

A wrapper calls the tracker's own function first, with exactly the arguments it was given, and
returns or raises what that function does. Only a call that the tracker accepted is recorded.
Nothing of a hook raises into the program. `spooler.hooks.run_tracker` has the wrappers that keep
these rules, and the `RunTracker` that all hooks record with.
"""

from __future__ import annotations

REGISTRY: dict[str, str] = {"wandb": "spooler.hooks.wandb"}
