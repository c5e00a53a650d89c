"""The Dockerfile: what it copies is there and let through, and its steps make a working service.

The tests have no container engine. `make image-steps` runs the steps themselves.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

from tests.kit import manifests
from tests.kit.spools import REPOSITORY

DOCKERFILE = REPOSITORY / "Dockerfile"


@pytest.fixture
def steps(tmp_path: Path) -> list[tuple[str, str]]:
    """The instructions in order, comments and line ends taken out."""
    parser = DockerfileParser(path=str(tmp_path / "Dockerfile"))
    parser.content = DOCKERFILE.read_text(encoding="utf-8")
    return [(one["instruction"], one["value"]) for one in parser.structure]


def copied(steps: list[tuple[str, str]]) -> list[str]:
    """The names that come from the source tree."""
    lines = [value for name, value in steps if name == "COPY" and "--from" not in value]
    return [source for line in lines for source in line.split()[:-1]]


def test_everything_copied_is_there_and_not_ignored(steps: list[tuple[str, str]]) -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split("\n")
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    assert let_through == set(copied(steps))
    assert all((REPOSITORY / name).exists() for name in let_through)


def test_what_the_wheel_is_made_of_is_copied(steps: list[tuple[str, str]]) -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [*wheel["packages"], *wheel["force-include"], project["project"]["readme"]]
    names = copied(steps)
    assert all(any(one == name or one.startswith(f"{name}/") for name in names) for one in needed)


def test_the_last_stage_builds_nothing_and_is_not_root(steps: list[tuple[str, str]]) -> None:
    last = steps[max(n for n, (name, _) in enumerate(steps) if name == "FROM") :]
    names = [name for name, _ in last]
    assert "RUN" not in names
    assert not {"ADD", "HEALTHCHECK"} & set(names)
    values = dict(last)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", values["USER"])
    assert values["ENTRYPOINT"] == '["lens-ship"]'
    spec = manifests.only(manifests.base(), "DaemonSet")["spec"]["template"]["spec"]
    user = spec["securityContext"]
    assert values["USER"] == f"{user['runAsUser']}:{user['runAsGroup']}"


def test_every_image_is_pinned_to_a_release(steps: list[tuple[str, str]]) -> None:
    (default,) = [value for name, value in steps if name == "ARG"]
    assert re.fullmatch(r"PYTHON=3\.\d+", default)
    for name, value in steps:
        if name == "FROM":
            assert re.match(r"python:\$\{PYTHON\}-slim-\w+( AS build)?$", value), value


def requirements(name: str) -> dict[str, tuple[str, int]]:
    """The versions in a file and how many hashes each has, by name."""
    text = (REPOSITORY / name).read_text(encoding="utf-8").replace("\\\n", "")
    found = re.findall(r"^([\w.-]+)==([^\s;]+)(.*)$", text, re.MULTILINE)
    return {
        name.lower().replace("_", "-"): (version, rest.count("--hash=sha256:"))
        for name, version, rest in found
    }


def test_the_image_has_the_versions_of_the_tests_with_their_hashes() -> None:
    image, tested = requirements("image-requirements.txt"), requirements("constraints.txt")
    assert all(hashes for _, hashes in image.values())
    for name, (version, _) in image.items():
        assert tested.get(name, (version, 0))[0] == version, f"{name}: make image-requirements"
    text = (REPOSITORY / "image-requirements.txt").read_text(encoding="utf-8")
    assert "://" not in text


def test_the_image_has_all_that_the_service_and_its_build_need() -> None:
    """By the metadata of what is installed here: of each package, and of those that it needs."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    waiting = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    waiting += project["project"]["optional-dependencies"]["service"]
    image, seen = requirements("image-requirements.txt"), set[str]()
    while waiting:
        one = Requirement(waiting.pop())
        name = one.name.lower().replace("_", "-")
        if name in seen or (one.marker and not one.marker.evaluate()):
            continue
        seen.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of the build, which has an environment of its own
        for need in map(Requirement, needs):
            extras = [{"extra": extra} for extra in one.extras or {""}]
            if not need.marker or any(need.marker.evaluate(extra) for extra in extras):
                need.marker = None
                waiting.append(str(need))
    assert len(seen) > 15
    assert seen - set(image) == set(), "make image-requirements"


@pytest.mark.skipif(
    "LENS_SHIP_TEST_IMAGE" not in os.environ, reason="takes a minute and an index: make image-steps"
)
def test_the_steps_make_a_service_that_starts(steps: list[tuple[str, str]], tmp_path: Path) -> None:
    source, wheels, target = tmp_path / "source", tmp_path / "wheels", tmp_path / "opt"
    for name in copied(steps):
        assert fnmatch.fnmatch(name, "*")
        to = source / name
        to.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, to)
    environ = {**os.environ, "PYTHONPATH": ""}
    for name, value in steps[: max(n for n, (name, _) in enumerate(steps) if name == "FROM")]:
        line = value.replace("/wheels", str(wheels)).replace("/opt/lens-ship", str(target))
        if name == "ENV":
            environ |= dict(word.split("=", 1) for word in shlex.split(line))
        if name == "RUN":
            line = re.sub(r"(^|&& )python ", rf"\1{sys.executable} ", line)
            subprocess.run(line, shell=True, check=True, cwd=source, env=environ)
    done = subprocess.run(
        [target / "bin" / "lens-ship", "--version"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
        check=True,
    )
    assert done.stdout.startswith("lens-ship, version ")
    assert not (target / "bin" / "pip").exists()
