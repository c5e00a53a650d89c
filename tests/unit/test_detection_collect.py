"""Collecting never raises, loses only what failed, imports nothing, and disturbs nobody."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from spooler import detection
from spooler.detection import hardware
from tests.kit import spools

ROOT = Path(detection.__file__).parents[2]
ROOM = Path(detection.__file__).parent


def facts(**changes: Any) -> detection.RunFacts:
    usual: dict[str, Any] = {"project": "p", "name": "n", "id": "i", "config": {}, "tags": ()}
    return detection.RunFacts(**{**usual, **changes})


def collect(run: detection.RunFacts | None = None, **given: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {"environ": {}, "modules": {}, "files": Path("/nowhere")}
    return detection.collect(run or facts(), **{**usual, **given})


class Failing(dict):
    """A mapping that fails whatever is asked of it."""

    def _fail(self, *_: Any) -> Any:
        raise OSError("no")

    __iter__ = __getitem__ = __len__ = __contains__ = get = keys = items = _fail


class Unreadable(os.PathLike):
    def __fspath__(self) -> str:
        raise RecursionError


def test_every_registered_source_exists() -> None:
    for target in detection.REGISTRY.values():
        file, _, function = target.partition(":")
        source = importlib.import_module(f"spooler.detection.{file}")
        assert callable(getattr(source, function))


def test_a_failing_source_loses_only_its_section(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> Any:
        raise PermissionError("/dev/secret-path")

    monkeypatch.setattr(hardware, "look", fail)
    found = collect(environ={"PRIMUS_CONFIG": "/c"})["evidence"]
    assert "hardware" not in found
    assert found["system"]["evidence_errors"] == {"hardware": "PermissionError"}
    assert found["environment"] == {"PRIMUS_CONFIG": "/c"}
    assert "secret-path" not in json.dumps(found)


@pytest.mark.parametrize("given", [{"environ": Failing()}, {"files": Unreadable()}])
def test_whatever_fails_collecting_does_not(given: dict[str, Any]) -> None:
    found = collect(facts(config={"framework": "primus"}), **given)
    assert found["evidence"]["system"]["evidence_errors"]
    assert found["evidence"]["wandb"]["config"] == {"framework": "primus"}
    assert found["hints"]["possible_frameworks"] == ["primus"]
    json.dumps(found, allow_nan=False)


def test_a_failing_configuration_leaves_the_identity() -> None:
    class Config(Failing.__mro__[1].__mro__[1]):  # a mapping that is no dict
        def items(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    found = collect(facts(config=Config()))["evidence"]
    assert found["wandb"] == {"project": "p", "name": "n", "id": "i", "tags": []}
    assert found["system"]["evidence_errors"] == {"wandb.config": "RuntimeError"}


def test_facts_that_are_missing_are_empty_texts() -> None:
    found = collect(facts(project=None, name=None, id=None, tags=None, config=None))["evidence"]
    assert found["wandb"] == {"project": "", "name": "", "id": "", "tags": []}


# --- modules are only looked at -------------------------------------------------------------------


class Loading(types.ModuleType):
    """A module whose every attribute access would import something."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


def test_modules_are_read_past_their_own_access() -> None:
    names = ["torch", "torch.version", "torch.cuda", "megatron", "transformers", "numpy"]
    found = collect(modules={name: Loading(name) for name in names})["evidence"]
    assert "evidence_errors" not in found["system"]
    assert found["pytorch"]["available"] is True
    assert found["wrapper_frameworks"]["transformers"]["imported"] is True


@pytest.mark.promise("G10")
def test_a_lazily_loaded_module_stays_unloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "transformers.py").write_text("raise AssertionError('it was loaded')\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lazy)
    found = collect(modules={"transformers": lazy, "torch": None})["evidence"]
    assert "wrapper_frameworks" not in found
    assert found["pytorch"]["available"] is False
    assert "evidence_errors" not in found["system"]


def test_imported_frameworks() -> None:
    modules = {"torch": types.ModuleType("torch"), "megatron": None, "json": json}
    assert detection.imported_frameworks(modules) == {"torch"}


# --- the process is not disturbed -----------------------------------------------------------------

PROBE = """
    import dataclasses, importlib, json, os, pathlib, sys, threading
    sys.path.insert(0, {root!r})
    before = set(sys.modules)
    from spooler import detection
    run = detection.RunFacts(project="p", name="n", id="i", config={{"a": 1}}, tags=())
    found = detection.collect(run, os.environ, sys.modules)
    assert "evidence_errors" not in found["evidence"]["system"], found
    print(json.dumps([sorted(set(sys.modules) - before), threading.active_count()]))
"""

FORBIDDEN = """
socket _socket ssl http subprocess _posixsubprocess multiprocessing asyncio ctypes _ctypes
concurrent platform email sqlite3 msgpack numpy torch transformers jax wandb requests tempfile
importlib.metadata zipfile select
"""


@pytest.mark.promise("G10")
def test_collecting_imports_nothing_but_itself() -> None:
    code = textwrap.dedent(PROBE.format(root=str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=spools.PATIENCE_SECONDS,
    )
    imported, threads = json.loads(done.stdout)
    assert {name.partition(".")[0] for name in imported}.isdisjoint(FORBIDDEN.split())
    assert set(imported).isdisjoint(FORBIDDEN.split())
    assert threads == 1


@pytest.mark.promise("G10")
def test_the_sources_import_nothing_that_waits() -> None:
    allowed = {
        *("__future__", "collections", "dataclasses", "functools", "importlib", "itertools"),
        *("json", "math", "os", "pathlib", "re", "spooler", "stat", "sys", "typing"),
    }
    for file in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, file.name


def test_a_pipe_among_the_files_does_not_block(tmp_path: Path) -> None:
    place = tmp_path / "proc"
    place.mkdir()
    os.mkfifo(place / "meminfo")
    assert "memory_gb" not in collect(files=tmp_path)["evidence"]["system"]


def test_collecting_while_others_import_and_set_variables() -> None:
    modules: dict[str, object] = dict(sys.modules)
    environ = os.environ
    config: dict[str, Any] = {"nested": {}}
    stop = threading.Event()
    failed: list[dict[str, Any]] = []

    def disturb() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            modules[f"module{number % 5000}"] = modules.pop(f"module{(number + 7) % 5000}", 1)
            config["nested"][f"key{number % 300}"] = number
            config["nested"].pop(f"key{(number + 7) % 300}", None)
            environ["JAX_TEST_DISTURBANCE"] = str(number)
            environ.pop("JAX_TEST_DISTURBANCE", None)

    def look() -> None:
        for _ in range(15):
            found = detection.collect(facts(config=config), environ, modules)["evidence"]
            if "evidence_errors" in found["system"]:
                failed.append(found["system"]["evidence_errors"])

    disturber = threading.Thread(target=disturb)
    lookers = [threading.Thread(target=look) for _ in range(3)]
    disturber.start()
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    stop.set()
    disturber.join()
    assert failed == []
