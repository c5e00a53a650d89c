"""The training side is light: what it loads and starts, and that wandb stays wandb beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shipper.install import pth
from tests.kit import spools

pytestmark = pytest.mark.promise("G9")

PTH = spools.REPOSITORY / "spooler" / "lens_ship.pth"
HEAVY = frozenset(
    """
    requests urllib3 http socket ssl tenacity asyncio multiprocessing concurrent subprocess
    selectors select queue click rich orjson sqlite_utils watchdog numpy torch wandb
    shipper logging email tempfile
    """.split()  # noqa: SIM905 - a list of names is read more easily than one of strings
)
# Packages that any other .pth file of the environment may load at start-up do not count against
# us, so every interpreter here is compared with one that imports nothing.
_LOADED = (
    "import sys; before = set(sys.modules)\n{}\nimport json, threading\n"
    "print(json.dumps([sorted(set(sys.modules) - before), threading.active_count()]))"
)


def loads(statement: str, **environ: str) -> tuple[set[str], int]:
    """The modules that `statement` loads, and the threads there are after it."""
    modules, threads = spools.answer(spools.python(_LOADED.format(statement), **environ))
    return set(modules), threads


@pytest.mark.parametrize(
    "statement",
    [
        "import spooler",
        "import spooler.activate",
        "import spooler.spool.reader",
        "import spooler.spool.writer",
        "import spooler.hooks.wandb",
        "import spooler.recorder",
        "from spooler import install, uninstall, stats, get_global_reporter",
        "from spooler import log, start_run, finish",
        "import spooler.hooks.tensorboard",
        "import spooler.recorder; spooler.recorder.recorder()",
        "import spooler; spooler.install()",
        "import spooler.records.report, spooler.records.decision",
    ],
)
def test_importing_us_loads_nothing_heavy_and_starts_nothing(
    statement: str, tmp_path: Path
) -> None:
    modules, threads = loads(statement, PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path / "spool"))
    assert {name.partition(".")[0] for name in modules} & HEAVY == set()
    assert threads == 1
    assert list(tmp_path.iterdir()) == [], "and opens nothing"


def test_the_third_parties_that_we_load_are_msgpack() -> None:
    modules, _ = loads("import spooler.hooks.wandb, spooler.recorder, spooler.spool.reader")
    tops = {name.partition(".")[0] for name in modules}
    foreign = {name for name in tops - set(sys.stdlib_module_names) if "cython" not in name}
    assert foreign == {"spooler", "msgpack"}


def test_recording_loads_nothing_heavy_and_starts_one_thread(tmp_path: Path) -> None:
    modules, threads = loads(
        "from spooler.recorder import recorder; assert recorder().record('step', {'a': 1})",
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path),
    )
    assert {name.partition(".")[0] for name in modules} & HEAVY == set()
    assert threads == 2


@pytest.mark.parametrize("name", ["LogCollector", "DiagnosisAgent", "SpoolMasterClient"])
def test_the_diagnosis_side_loads_no_network_and_starts_nothing(name: str, tmp_path: Path) -> None:
    """It has a log, as its users expect; the network comes with the first look at a port."""
    modules, threads = loads(
        f"from spooler import {name}; one = {name}(); one.set_client(None)"
        if name != "SpoolMasterClient"
        else f"from spooler import {name}; one = {name}.singleton_instance()",
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path / "spool"),
        TRAINING_LOG_FILE=str(tmp_path / "no.log"),
    )
    assert {name.partition(".")[0] for name in modules} & (HEAVY - {"logging"}) == set()
    assert threads == 1
    assert list(tmp_path.iterdir()) == []


def test_without_the_variable_nothing_of_the_collectors_is_loaded(tmp_path: Path) -> None:
    modules, _ = loads("import spooler.hooks.wandb, spooler.recorder; spooler.recorder.recorder()")
    assert not {name for name in modules if "collectors" in name or "diagnosis" in name}


def test_the_front_door_of_the_package_is_lazy() -> None:
    modules, _ = loads("import spooler")
    assert {name for name in modules if name.startswith(("spooler", "msgpack"))} == {"spooler"}
    modules, _ = loads("import spooler.spool.reader")
    assert not modules & {
        "spooler.hooks.wandb",
        "spooler.recorder",
        "spooler.detection",
        "spooler.background",
    }


# --- the line that every interpreter start runs ---------------------------------------------------


def start(*, code: str = "pass", **environ: str) -> set[str]:
    """The modules of ours and of wandb's in an interpreter that has run the line at its start."""
    done = spools.python(  # set inside: the environment of the tests may have the line too
        f"import os, sys; os.environ.update({environ!r});"
        f"exec(open(sys.argv[1]).read()); {code};"
        "import json; print(json.dumps([m for m in sys.modules"
        " if m.partition('.')[0] in ('spooler', 'shipper', 'msgpack', 'wandb', 'ctypes')]))",
        PTH,
    )
    assert done.stderr == ""
    return set(spools.answer(done))


def test_the_packaged_line_is_the_one_that_is_installed() -> None:
    text = pth.PTH_LINE
    assert text == PTH.read_text(encoding="utf-8")
    assert text.count("\n") == 1
    assert text.startswith("import "), "site runs such lines only"
    assert text.endswith("\n")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"PRIMUS_LENS_WANDB_OUTPUT_PATH": ""},
        {"PRIMUS_LENS_WANDB_HOOK": "true"},
        {"PRIMUS_LENS_WANDB_OUTPUT_PATH": "/data", "PRIMUS_LENS_WANDB_HOOK": "false"},
        {"PRIMUS_LENS_WANDB_OUTPUT_PATH": "/data", "PRIMUS_LENS_WANDB_HOOK": "0"},
        {"PRIMUS_LENS_WANDB_OUTPUT_PATH": "/data", "PRIMUS_LENS_WANDB_HOOK": " No "},
        {"PRIMUS_LENS_WANDB_OUTPUT_PATH": "/data", "PRIMUS_LENS_WANDB_HOOK": "OFF"},
    ],
    ids=str,
)
def test_switched_off_an_interpreter_imports_nothing_of_ours(environ: dict[str, str]) -> None:
    assert start(**environ) == set()


@pytest.mark.parametrize("collectors", ["", "true"])
def test_switched_on_it_imports_the_waiting_and_nothing_more(
    collectors: str, tmp_path: Path
) -> None:
    on = {
        "PRIMUS_LENS_WANDB_OUTPUT_PATH": str(tmp_path / "spool"),
        "PRIMUS_LENS_COLLECTORS": collectors,
    }
    assert start(**on) == set()
    waiting = "print(sum(hasattr(one, 'is_lens_ship') for one in sys.meta_path))"
    done = spools.python(f"import sys; exec(open(sys.argv[1]).read()); {waiting}", PTH, **on)
    assert done.stdout == "1\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise("G2")
def test_a_fault_of_the_hook_does_not_break_import_wandb(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['spooler.hooks.wandb'] = None\n"
        "import spooler; spooler.install(); import wandb; print(wandb.__version__)"
    )
    done = spools.python(code, PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot hook wandb") == 1


# --- wandb under the hook -------------------------------------------------------------------------

_LOOK = """
import importlib.resources, inspect, json, re, sys
def look():
    import wandb
    from wandb.sdk.wandb_run import Run
    spec = wandb.__spec__
    return {
        "loader": type(spec.loader).__module__ + "." + type(spec.loader).__qualname__,
        "same": wandb.__loader__ is spec.loader,
        "origin": spec.origin,
        "file": wandb.__file__,
        "package": list(wandb.__path__),
        "source": len(inspect.getsource(wandb)) > 1000,
        "resources": importlib.resources.files("wandb").joinpath("__init__.py").is_file(),
        "signatures": [
            re.sub("0x[0-9a-f]+", "", str(inspect.signature(f))) for f in (wandb.init, Run.log)
        ],
        "documented": [bool(wandb.init.__doc__), wandb.init.__name__, wandb.init.__module__],
    }
"""


def test_wandb_looks_the_same_with_the_hook_as_without(tmp_path: Path) -> None:
    plain = spools.answer(spools.python(_LOOK + "print(json.dumps(look()))"))
    hooked = spools.answer(
        spools.python(
            _LOOK
            + "import spooler; spooler.install(); told = look()\n"
            + "import wandb; assert hasattr(wandb.init, '_lens_ship_original')\n"
            + "print(json.dumps(told))",
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path),
        )
    )
    assert hooked == plain
    assert plain["loader"] == "_frozen_importlib_external.SourceFileLoader"


@pytest.mark.parametrize("first", ["wandb", "spooler"])
def test_installing_before_or_after_the_import_makes_no_difference(first: str) -> None:
    imports = {"wandb": "import wandb", "spooler": "import spooler; spooler.install()"}
    second = next(name for name in imports if name != first)
    told = spools.answer(
        spools.python(
            f"{imports[first]}\n{imports[second]}\n{imports['spooler']}\n"
            "import json; from wandb.sdk.wandb_run import Run; from wandb.sdk import wandb_init\n"
            "marked = [f for f in (wandb.init, wandb_init.init, Run.log, Run._finish)\n"
            "          if hasattr(f, '_lens_ship_original')]\n"
            "twice = [f for f in marked if hasattr(f._lens_ship_original, '_lens_ship_original')]\n"
            "print(json.dumps([len(marked), len(twice)]))"
        )
    )
    assert told == [4, 0]


def test_a_tracker_that_is_imported_again_is_hooked_again() -> None:
    told = spools.answer(
        spools.python(
            "import json, sys, importlib, spooler; spooler.install(); import wandb\n"
            "for name in [n for n in sys.modules if n.partition('.')[0] == 'wandb']:\n"
            "    del sys.modules[name]\n"
            "import wandb as again; assert again is not wandb\n"
            "reloaded = importlib.reload(again)\n"
            "from wandb.sdk.wandb_run import Run\n"
            "print(json.dumps([hasattr(f, '_lens_ship_original') for f in"
            " (again.init, reloaded.init, Run.log, Run._finish)]))"
        )
    )
    assert told == [True] * 4


def test_uninstalling_gives_everything_back() -> None:
    told = spools.answer(
        spools.python(
            "import json, sys, wandb; from wandb.sdk import wandb_init\n"
            "from wandb.sdk.wandb_run import Run\n"
            "def all(): return [wandb.init, wandb.sdk.init, wandb_init.init, wandb.log,"
            " vars(Run)['log'], vars(Run)['_finish'], Run.finish, Run.__exit__]\n"
            "before, finders = all(), list(sys.meta_path)\n"
            "import spooler; spooler.uninstall(); spooler.install(); spooler.install()\n"
            "hooked = all(); spooler.uninstall(); spooler.uninstall()\n"
            "print(json.dumps([sum(a is not b for a, b in zip(before, hooked)),"
            " [a is b for a, b in zip(before, all())], finders == list(sys.meta_path)]))"
        )
    )
    assert told == [5, [True] * 8, True]


def test_uninstalling_before_the_import_leaves_wandb_alone() -> None:
    told = spools.answer(
        spools.python(
            "import json, sys; finders = list(sys.meta_path)\n"
            "import spooler; spooler.install(); spooler.uninstall()\n"
            "same = finders == list(sys.meta_path); import wandb\n"
            "print(json.dumps([same, hasattr(wandb.init, '_lens_ship_original')]))"
        )
    )
    assert told == [True, False]


def test_wandb_s_own_command_line_works_under_the_hook(tmp_path: Path) -> None:
    done = hooked_python("-m", "wandb", "--help", root=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    assert "lens-ship" not in done.stderr


@pytest.mark.promise("G2")
@pytest.mark.parametrize("broken", ["raise ImportError('half installed')", "x = 1 / 0", ""])
def test_a_wandb_that_does_not_import_fails_as_it_would_without_us(
    broken: str, tmp_path: Path
) -> None:
    """An empty one is a folder or a stub that happens to be called wandb."""
    package = tmp_path / "wandb"
    package.mkdir()
    (package / "__init__.py").write_text(broken)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import spooler; spooler.install()\n"
        "for turn in range(2):\n"
        "    try: import wandb; print('imported')\n"
        "    except Exception as error: print(type(error).__name__)\n"
        "spooler.uninstall()"
    )
    done = spools.python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    expected = {"r": "ImportError", "x": "ZeroDivisionError", "": "imported"}[broken[:1]]
    assert done.stdout.split() == [expected] * 2
    assert "Traceback" not in done.stderr


def test_a_missing_wandb_is_missing_as_before() -> None:
    done = spools.python(
        "import sys, spooler; spooler.install()\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "try: import wandb\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    assert done.stdout.strip() == "No module named 'wandb'", done.stderr


def hooked_python(*arguments: str, root: Path) -> subprocess.CompletedProcess[Any]:
    """An interpreter whose start runs the line, as `site` does with the .pth file."""
    site = root / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(PTH.read_text(encoding="utf-8"))
    path = os.pathsep.join([str(site), str(spools.REPOSITORY)])
    return subprocess.run(
        [sys.executable, *arguments],
        env=spools.environment(PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root / "spool"), PYTHONPATH=path),
        cwd=root,
        capture_output=True,
        text=True,
        timeout=spools.PATIENCE_SECONDS,
        check=False,
    )
