"""Broken builds of the training side: what wandb gets, what is loaded, what is looked at."""

from __future__ import annotations

from tests.crash.lab.patches import BrokenBuild, Patch

_TRACKER = "spooler/hooks/run_tracker.py"
_WRAPPERS = "spooler/hooks/wrappers.py"
_CALL = (
    "        # Not in the handler above: an error of the tracker's would carry ours with it.\n"
    "        try:\n            result = original(self, *args, **kwargs)\n"
)

TRAINING_BUILDS: dict[str, BrokenBuild] = {
    "converts-values-in-place": BrokenBuild(
        meaning="values that are not plain are converted in the user's own data",
        patches=(
            Patch(
                file=_TRACKER,
                old="        if tracked.ready != mine.generation:\n",
                new="        for name in list(data) if type(data) is dict else ():\n"
                "            if type(data[name]).__module__ == 'numpy':\n"
                "                data[name] = data[name].tolist()\n"
                "        if tracked.ready != mine.generation:\n",
            ),
        ),
    ),
    "swallows-wandb-exceptions": BrokenBuild(
        meaning="an exception of wandb is taken for one of lens-ship and not raised",
        patches=(
            Patch(
                file=_WRAPPERS,
                old="            raise\n        if before is None:\n",
                new="            return count(error)\n        if before is None:\n",
            ),
        ),
    ),
    "consumes-an-iterator": BrokenBuild(
        meaning="values are read for the record before wandb gets them, iterators included",
        patches=(
            Patch(
                file=_WRAPPERS,
                old=_CALL,
                new="        given = args[0] if args and type(args[0]) is dict else {}\n"
                "        for value in given.values():\n"
                "            if hasattr(type(value), '__next__'):\n"
                "                list(value)\n" + _CALL,
            ),
        ),
    ),
    "imports-installed-frameworks": BrokenBuild(
        meaning="PyTorch is imported to read its version",
        patches=(
            Patch(
                file="spooler/detection/pytorch.py",
                old='        "available": view.loaded("torch") or bool(version),\n',
                new='        "available": bool(version) and bool(_imported()),\n',
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
    "runs-nvidia-smi": BrokenBuild(
        meaning="nvidia-smi is run when the files of the driver hold nothing",
        patches=(
            Patch(
                file="spooler/detection/nvidia.py",
                old='    return view.search("/proc/driver/nvidia/version", pattern)\n',
                new='    found = view.search("/proc/driver/nvidia/version", pattern)\n'
                "    if not found:\n"
                "        import contextlib\n"
                "        import subprocess\n\n"
                "        with contextlib.suppress(OSError):\n"
                '            subprocess.run(["nvidia-smi"], check=False)\n'
                "    return found\n",
            ),
        ),
    ),
    "reads-module-attributes": BrokenBuild(
        meaning="attributes of loaded modules are read, and a lazy module imports for that",
        patches=(
            Patch(
                file="spooler/detection/view.py",
                old="        found = self.attributes(module).get(name)\n",
                new="        found = getattr(self.modules.get(module), name, None)\n",
            ),
        ),
    ),
    "imports-requests": BrokenBuild(
        meaning="the recorder imports an HTTP library when it opens its spool",
        patches=(
            Patch(
                file="spooler/recorder.py",
                old="        settings = config.from_environ(os.environ, bad)\n"
                "        if self._silent:\n",
                new="        with contextlib.suppress(ImportError):\n"
                "            import requests\n"
                "        settings = config.from_environ(os.environ, bad)\n"
                "        if self._silent:\n",
            ),
            Patch(
                file="spooler/recorder.py",
                old="import atexit\n",
                new="import atexit\nimport contextlib\n",
            ),
        ),
    ),
    "second-thread": BrokenBuild(
        meaning="each deferred task gets a thread of its own",
        patches=(
            Patch(
                file="spooler/background.py",
                old="                thread.start()\n",
                new="                thread.start()\n"
                "                threading.Thread(target=self._run, daemon=True).start()\n",
            ),
        ),
    ),
    "imported-when-disabled": BrokenBuild(
        meaning="every start of the interpreter imports the package, whether it is enabled or not",
        patches=(
            Patch(
                file="spooler/lens_ship.pth",
                old="import os; ",
                new="import os, spooler; ",
            ),
        ),
    ),
}
