"""The service as a sidecar: its manifests, and its life as a kubelet plays it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from shipper.config.load import load
from shipper.ledger.service_status import is_running
from tests.kit import manifests
from tests.kit.command import awaits_signals, start_lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import Answer, FaultyReceiver
from tests.kit.manifests import Object, containers, only, rendered
from tests.kit.spools import PATIENCE_SECONDS, REPOSITORY, environment, wait_until
from tests.kit.trainer import Trainer

# The first with native sidecars, and the newest.
VERSIONS = ("1.29", kubernetes_validate.latest_version())
STEPS = 50  # that a Trainer records


@pytest.fixture
def found() -> list[Object]:
    return manifests.sidecar()


def pod(found: list[Object]) -> Object:
    spec: Object = only(found, "Job")["spec"]["template"]["spec"]
    return spec


def service(found: list[Object]) -> Object:
    (one,) = [one for one in pod(found)["initContainers"] if one.get("restartPolicy") == "Always"]
    return dict(one)


def settings(found: list[Object]) -> dict[str, str]:
    """The environment of the service."""
    (source,) = service(found)["envFrom"]
    given = only(found, "ConfigMap")
    assert given["metadata"]["name"] == source["configMapRef"]["name"]
    return {**given["data"], **{one["name"]: one["value"] for one in service(found)["env"]}}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_to_kubernetes(found: list[Object], version: str) -> None:
    for one in found:
        kubernetes_validate.validate(one, version, strict=True)


def test_kubectl_builds_the_same(found: list[Object]) -> None:
    built = manifests.without_digests(manifests.built(manifests.SIDECAR_EXAMPLE))
    assert [in_order(one) for one in built] == [in_order(one) for one in found]


def in_order(value: Any) -> Any:
    """Without the order of lists, of which only the init containers' has a meaning."""
    if isinstance(value, dict):
        inner = {name: in_order(below) for name, below in value.items()}
        names = [one["name"] for one in value.get("initContainers", ())]
        return {**inner, "order": names} if names else inner
    if isinstance(value, list):
        return sorted(
            (in_order(one) for one in value), key=lambda one: json.dumps(one, sort_keys=True)
        )
    return value


def test_it_meets_the_restricted_level_of_pod_security(found: list[Object]) -> None:
    spec = pod(found)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"emptyDir", "secret", "configMap", "projected", "downwardAPI"}
    for container in containers(found):
        context = {**spec["securityContext"], **container["securityContext"]}
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] != 0
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any("hostPort" in port for port in container.get("ports", ()))


def test_training_and_service_meet_in_one_spool(found: list[Object]) -> None:
    (train,) = pod(found)["containers"]
    variables = {one["name"]: one.get("value") for one in train["env"]}
    mounts = {
        name: {mount["mountPath"]: mount["name"] for mount in one["volumeMounts"]}
        for name, one in (("train", train), ("service", service(found)))
    }
    config = load({}, settings(found))
    assert config.warnings == ()
    assert variables["PRIMUS_LENS_WANDB_OUTPUT_PATH"] == str(config.spool)
    assert mounts["train"][str(config.spool)] == mounts["service"][str(config.spool)]
    assert str(config.state) in mounts["service"]
    assert str(config.state) not in mounts["train"]
    (hook,) = [one for one in pod(found)["initContainers"] if one["name"] == "lens-ship-hook"]
    assert variables["PYTHONPATH"] == hook["args"][-1]
    assert pod(found)["terminationGracePeriodSeconds"] > config.drain_seconds


def test_a_service_that_fails_keeps_no_training_from_starting(found: list[Object]) -> None:
    assert not {"startupProbe", "readinessProbe"} & service(found).keys()


def test_the_chart_gives_the_settings_to_the_namespaces(found: list[Object]) -> None:
    given = rendered(daemonSet={"enabled": False}, sidecar={"namespaces": ["a", "b"]})
    assert [one["kind"] for one in given] == ["ConfigMap", "ConfigMap"]
    assert [one["metadata"]["namespace"] for one in given] == ["a", "b"]
    assert {one["metadata"]["name"] for one in given} == {"lens-ship-sidecar"}
    assert given[0]["data"] == only(found, "ConfigMap")["data"]


# --- its life -------------------------------------------------------------------------------------


class Kubelet:
    """Starts the service before the training and ends it after it, as a kubelet does."""

    def __init__(self, folder: Path, receiver: FaultyReceiver, found: list[Object]) -> None:
        self.volume = folder
        self.grace = pod(found)["terminationGracePeriodSeconds"]
        self.environ: dict[str, Any] = {
            **settings(found),
            "LENS_SHIP_SPOOL": str(folder / "spool"),
            "LENS_SHIP_STATE": str(folder / "state"),
            "LENS_SHIP_PROCESSOR_URL": receiver.url,
            "LENS_SHIP_HTTP_LISTEN": "off",
            "CREDENTIALS_DIRECTORY": str(folder),
        }
        self.service = self.start()
        self.train = Trainer(folder / "spool", WORKLOAD_UID="w")

    def start(self) -> subprocess.Popen[str]:
        self.service = start_lens_ship("run", stderr=subprocess.DEVNULL, **self.environ)
        return self.service

    def is_up(self) -> bool:
        """Whether the service has begun, or ended: one that is still loaded answers no signal."""
        return self.service.poll() is not None or awaits_signals(self.service)

    def end(self, since: float) -> int:
        """SIGTERM for the service and, when the grace period is over, SIGKILL; its code."""
        self.service.send_signal(signal.SIGTERM)
        left = self.grace - (time.monotonic() - since)
        try:
            return self.service.wait(max(2.0, left))
        except subprocess.TimeoutExpired:
            self.service.kill()
            return self.service.wait()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as running:
        yield running


@pytest.fixture
def kubelet(
    tmp_path: Path, receiver: FaultyReceiver, found: list[Object]
) -> Iterator[Callable[[], Kubelet]]:
    made: list[Kubelet] = []

    def make() -> Kubelet:
        made.append(Kubelet(tmp_path, receiver, found))
        return made[-1]

    yield make
    for one in made:
        one.service.kill()
        one.service.wait()


def test_a_job_that_completes_is_delivered_to_its_last_record(
    kubelet: Callable[[], Kubelet], receiver: FaultyReceiver
) -> None:
    node = kubelet()
    node.train.record_more()
    node.train.end()
    wait_until(node.is_up)
    assert node.end(time.monotonic()) == 0
    assert arrived(receiver.store, "w").order == list(range(2 * STEPS))


def test_a_pod_that_is_deleted_in_an_outage_is_delivered_within_its_grace(
    kubelet: Callable[[], Kubelet], receiver: FaultyReceiver
) -> None:
    receiver.then(*[Answer(status=503)] * 3)
    node = kubelet()
    receiver.wait_for(lambda seen: len(seen) >= 2, PATIENCE_SECONDS)
    deleted = time.monotonic()
    node.train.end()  # on its SIGTERM
    assert node.end(deleted) == 0
    assert arrived(receiver.store, "w").order == list(range(STEPS))


def test_a_training_that_is_killed_at_the_end_of_its_grace_is_delivered(
    kubelet: Callable[[], Kubelet], receiver: FaultyReceiver
) -> None:
    node = kubelet()
    receiver.wait_for(lambda seen: any(post.status == 200 for post in seen), PATIENCE_SECONDS)
    node.train.record_more()
    node.train.kill()
    # Two seconds, the least that a kubelet gives to a sidecar. A busy machine may need more.
    code = node.end(time.monotonic() - node.grace)
    order = list(dict.fromkeys(arrived(receiver.store, "w").order))
    assert order == list(range(2 * STEPS if code == 0 else len(order)))


def test_a_service_that_is_killed_is_started_again_and_repeats_nothing(
    kubelet: Callable[[], Kubelet], receiver: FaultyReceiver
) -> None:
    node = kubelet()
    receiver.wait_for(lambda seen: any(post.status == 200 for post in seen), PATIENCE_SECONDS)
    node.service.kill()
    node.service.wait()
    node.train.record_more()
    node.start()
    node.train.end()
    wait_until(node.is_up)
    assert node.end(time.monotonic()) == 0
    got = arrived(receiver.store, "w")
    assert sorted(set(got.order)) == list(range(2 * STEPS))
    assert sum(got.repeated.values()) <= 1


# --- OpenShift ------------------------------------------------------------------------------------

USER = "1000660000"  # of the namespace's range: without a name, a home or a group of its own


def as_any_user() -> list[str]:
    """What runs a Python of these tests as that user; skips where none does.

    The Python may lie where only root can read. Then the user may read everything, and write as
    ever.
    """
    plain = ["setpriv", "--reuid", USER, "--regid", "0", "--groups", USER]
    readers = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    for command in ([*plain, "--"], [*plain, *readers, "--"]):
        with suppress(FileNotFoundError):
            words = [*command, sys.executable, "-c", "import collections, shipper.service"]
            environ = environment(PYTHONPATH=str(REPOSITORY))
            if not subprocess.run(words, env=environ, capture_output=True, check=False).returncode:
                return [*command, sys.executable, "-c"]
    pytest.skip("needs root, and setpriv")


def test_training_and_service_run_as_any_user(
    receiver: FaultyReceiver, found: list[Object]
) -> None:
    python = as_any_user()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        places = {}
        for name in ("SPOOL", "STATE"):
            volume = Path(folder) / name
            volume.mkdir()
            os.chown(volume, 0, int(USER))
            volume.chmod(0o2770)  # as the kubelet gives an emptyDir to the fsGroup
            places[f"LENS_SHIP_{name}"] = str(volume)
        environ = {
            **settings(found),
            **places,
            "LENS_SHIP_PROCESSOR_URL": receiver.url,
            "LENS_SHIP_HTTP_LISTEN": "off",
            "CREDENTIALS_DIRECTORY": folder,
            "PRIMUS_LENS_WANDB_OUTPUT_PATH": places["LENS_SHIP_SPOOL"],
            "WORKLOAD_UID": "w",
            "HOME": "",
            "PYTHONPATH": str(REPOSITORY),
        }
        service = subprocess.Popen(
            [*python, "from shipper.__main__ import main; main()", "run"],
            env=environment(**environ),
            stderr=subprocess.PIPE,
            text=True,
        )
        record = "import spooler; [spooler.log({'loss': n}, step=n) for n in range(5)]"
        trained = subprocess.run([*python, record], env=environment(**environ), check=False)
        wait_until(lambda: service.poll() is not None or is_running(Path(folder) / "STATE"))
        service.send_signal(signal.SIGTERM)
        _, said = service.communicate(timeout=PATIENCE_SECONDS)
        assert (trained.returncode, service.returncode) == (0, 0), said
        assert arrived(receiver.store, "w").order == list(range(5))
