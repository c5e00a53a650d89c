"""Broken builds of the training side: what wandb gets, what is loaded, what is looked at."""

from __future__ import annotations

from tests.crash.lab.patches import Mutant, Patch

_TRACKER = "spooler/hooks/run_tracker.py"
_CALL = "        try:\n            result = original(self, *args, **kwargs)\n"

TRAINING_MUTANTS: dict[str, Mutant] = {
    "normalises-in-place": Mutant(
        meaning="what is no plain value is replaced in the user's own data",
        patches=(
            Patch(
                file=_TRACKER,
                old="        if tracked.generation != mine.generation:\n",
                new="        for name in list(data) if type(data) is dict else ():\n"
                "            if type(data[name]).__module__ == 'numpy':\n"
                "                data[name] = data[name].tolist()\n"
                "        if tracked.generation != mine.generation:\n",
            ),
        ),
    ),
    "swallows-wandb-s-exceptions": Mutant(
        meaning="what wandb raises is taken for a fault of ours and not passed on",
        patches=(
            Patch(
                file=_TRACKER,
                old="            raise\n        if before is None:\n",
                new="            return count(error)\n        if before is None:\n",
            ),
        ),
    ),
    "consumes-an-iterator": Mutant(
        meaning="what is to be recorded is read before wandb gets it, iterators with the rest",
        patches=(
            Patch(
                file=_TRACKER,
                old=_CALL,
                new="        given = args[0] if args and type(args[0]) is dict else {}\n"
                "        for value in given.values():\n"
                "            if hasattr(type(value), '__next__'):\n"
                "                list(value)\n" + _CALL,
            ),
        ),
    ),
    "imports-what-is-installed": Mutant(
        meaning="PyTorch is asked for its version by importing it",
        patches=(
            Patch(
                file="spooler/detection/pytorch.py",
                old='        "available": view.loaded("torch") or there.has("torch"),\n',
                new='        "available": there.has("torch") and bool(_imported()),\n',
            ),
            Patch(
                file="spooler/detection/pytorch.py",
                old="def built_for(",
                new="def _imported() -> bool:\n"
                "    import contextlib\n\n"
                "    with contextlib.suppress(ImportError):\n"
                "        import torch\n\n"
                "    return True\n\n\ndef built_for(",
            ),
        ),
    ),
    "asks-the-vendor-s-program": Mutant(
        meaning="a driver whose files tell nothing is asked by nvidia-smi",
        patches=(
            Patch(
                file="spooler/detection/nvidia.py",
                old='    text = view.read("/proc/driver/nvidia/version")\n',
                new='    text = view.read("/proc/driver/nvidia/version")\n'
                "    if not text:\n"
                "        import contextlib\n"
                "        import subprocess\n\n"
                "        with contextlib.suppress(OSError):\n"
                '            subprocess.run(["nvidia-smi"], check=False)\n',
            ),
        ),
    ),
    "asks-the-module": Mutant(
        meaning="a loaded module is asked for its attributes; a lazy one answers by importing",
        patches=(
            Patch(
                file="spooler/detection/view.py",
                old="        found = self.attributes(module).get(name)\n",
                new="        found = getattr(self.modules.get(module), name, None)\n",
            ),
        ),
    ),
    "imports-requests": Mutant(
        meaning="the recorder loads an HTTP library when it opens its spool",
        patches=(
            Patch(
                file="spooler/recorder.py",
                old="        settings = config.from_environ(os.environ)\n"
                "        if self._silent:\n",
                new="        with contextlib.suppress(ImportError):\n"
                "            import requests\n"
                "        settings = config.from_environ(os.environ)\n        if self._silent:\n",
            ),
            Patch(
                file="spooler/recorder.py",
                old="import atexit\n",
                new="import atexit\nimport contextlib\n",
            ),
        ),
    ),
    "a-second-thread": Mutant(
        meaning="there is a thread for every task that was put off",
        patches=(
            Patch(
                file="spooler/background.py",
                old="                thread.start()\n",
                new="                thread.start()\n"
                "                threading.Thread(target=self._run, daemon=True).start()\n",
            ),
        ),
    ),
    "imported-though-off": Mutant(
        meaning="every start of the interpreter loads the package, be it on or off",
        patches=(
            Patch(
                file="spooler/lens_ship.pth",
                old="import os; ",
                new="import os, spooler; ",
            ),
        ),
    ),
}
