"""What would be applied to a cluster: the kustomize base as kubectl builds it, and the chart."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit.spools import PATIENCE_SECONDS, REPOSITORY

BASE = REPOSITORY / "deploy" / "kubernetes"
CHART = REPOSITORY / "deploy" / "helm" / "lens-ship"
EXAMPLE = BASE / "example" / "training-job.yaml"
SIDECAR = BASE / "sidecar"
OPENSHIFT = BASE / "openshift"
PAGE = REPOSITORY / "docs" / "deployment.md"
SIDECAR_EXAMPLE = BASE / "example" / "sidecar"

CLUSTER_WIDE = ("Namespace", "PriorityClass", "SecurityContextConstraints")

Object = dict[str, Any]


def objects(text: str) -> list[Object]:
    """The documents of a YAML stream that hold anything."""
    return [one for one in yaml.safe_load_all(text) if one]


def base() -> list[Object]:
    """The base by the parts of a kustomization that it uses; `kubectl kustomize` must agree.

    Names of generated objects have no digest.
    """
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))
    found = []
    for name in kustomization["resources"]:
        found += objects((BASE / name).read_text(encoding="utf-8"))
    for one in kustomization["configMapGenerator"]:
        found.append(_generated(one))
    for one in found:
        if one["kind"] not in CLUSTER_WIDE:
            one["metadata"]["namespace"] = kustomization["namespace"]
    for image in kustomization["images"]:
        for container in containers(found):
            if container["image"] == image["name"]:
                container["image"] += f":{image['newTag']}"
    return found


def sidecar() -> list[Object]:
    """The example of a sidecar, as `base` makes the base."""
    component = yaml.safe_load((SIDECAR / "kustomization.yaml").read_text(encoding="utf-8"))
    (job,) = objects((SIDECAR_EXAMPLE / "training-job.yaml").read_text(encoding="utf-8"))
    (patch,) = objects((SIDECAR / "sidecar.yaml").read_text(encoding="utf-8"))
    found = [_generated(component["configMapGenerator"][0])]
    found.append(_merged(job, {"spec": patch["spec"]}))
    for container in containers(found):
        if container["image"] == component["images"][0]["name"]:
            container["image"] += f":{component['images'][0]['newTag']}"
    return found


def _merged(one: Any, patch: Any) -> Any:
    """A strategic merge: elements of lists are the same if they have one name, or one path."""
    if isinstance(patch, dict):
        names = [*one, *(name for name in patch if name not in one)]
        return {
            name: _merged(one[name], patch[name])
            if name in one and name in patch
            else copy.deepcopy({**one, **patch}[name])
            for name in names
        }
    if isinstance(patch, list) and isinstance(one, list):
        key = "mountPath" if "mountPath" in patch[0] else "name"
        theirs, ours = ({part[key]: part for part in parts} for parts in (one, patch))
        return list(_merged(theirs, ours).values())
    return patch


def _generated(one: Object) -> Object:
    lines = list(one.get("literals", ())) + [
        line
        for name in one.get("envs", ())
        for line in (BASE / name).read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": one["name"], **one.get("options", {})},
        "data": dict(line.split("=", 1) for line in lines),
    }


def without_digests(found: list[Object]) -> list[Object]:
    """What kustomize has built, with the names that generated objects are given."""
    names = [one["metadata"]["name"] for one in found if one["kind"] == "ConfigMap"]
    text = json.dumps(found)
    for name in names:
        text = text.replace(name, name.rpartition("-")[0])
    plain: list[Object] = json.loads(text)
    return plain


def built(folder: Path) -> list[Object]:
    """What `kubectl kustomize` makes of a folder; skips the test where there is no kubectl."""
    return objects(_run(_program("kubectl"), "kustomize", str(folder)))


def rendered(*, release: str = "lens-ship", **values: Any) -> list[Object]:
    """What helm makes of the chart; skips the test where there is no helm."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        where = ("--namespace", "lens-ship", "--values", file.name)
        return objects(_run(_program("helm"), "template", release, str(CHART), *where))


def refused(**values: Any) -> str:
    """Why helm renders no chart with these values."""
    with pytest.raises(AssertionError) as refusal:
        rendered(**values)
    return str(refusal.value)


def lint() -> None:
    """Let helm look at the chart."""
    _run(_program("helm"), "lint", "--strict", str(CHART))


def notes(**values: str) -> str:
    """What helm would print after an installation."""
    given = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    text = _run(_program("helm"), "install", "x", str(CHART), "--dry-run=client", *given)
    return text.partition("NOTES:\n")[2]


def _program(name: str) -> str:
    """The one that `make unit` has fetched, or that of this machine."""
    fetched = REPOSITORY / ".venv/kubernetes" / name
    found = str(fetched) if fetched.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}; `make unit` gets it")
    return found


def containers(found: list[Object]) -> Iterator[Object]:
    """Every container of every pod in these objects."""
    for one in found:
        pod = one.get("spec", {}).get("template", {}).get("spec", {})
        yield from (*pod.get("initContainers", ()), *pod.get("containers", ()))


def only(found: list[Object], kind: str) -> Object:
    """The one object of a kind."""
    (one,) = [one for one in found if one["kind"] == kind]
    return one


def _run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=2 * PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
