"""The manifests: valid to Kubernetes, closed to what they need not, and true to the service."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml

from shipper.cli import cli
from shipper.config.load import load
from shipper.config.schema import SETTINGS
from shipper.service import LAST_SECONDS, STOP_SECONDS
from shipper.sinks import table_problems
from tests.kit import manifests
from tests.kit.command import commands_of, start_lens_ship
from tests.kit.manifests import Object, base, containers, only, rendered
from tests.kit.ports import reserved_port
from tests.kit.spools import PATIENCE_SECONDS

VERSIONS = ("1.27", "1.30", kubernetes_validate.latest_version())
SOURCES: dict[str, Callable[[], list[Object]]] = {"kustomize": base, "helm": rendered}
# Only in the chart: which release an object belongs to, and the settings' digest.
OF_HELM = ("app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart")


@pytest.fixture(params=SOURCES)
def found(request: pytest.FixtureRequest) -> list[Object]:
    return SOURCES[request.param]()


def pod(found: list[Object]) -> Object:
    spec: Object = only(found, "DaemonSet")["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_to_kubernetes(found: list[Object], version: str) -> None:
    for one in [*found, *example()]:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelt_field_would_be_noticed(found: list[Object]) -> None:
    pod(found)["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(only(found, "DaemonSet"), VERSIONS[-1], strict=True)


def test_kubectl_builds_the_same_base() -> None:
    def key(one: Object) -> tuple[str, str]:
        return one["kind"], one["metadata"]["name"]

    found = manifests.without_digests(manifests.built(manifests.BASE))
    assert sorted(found, key=key) == sorted(base(), key=key)


def test_a_change_of_the_settings_replaces_the_pods(tmp_path: Any) -> None:
    """By both ways of an overlay to change them."""
    patch = "{apiVersion: v1, kind: ConfigMap, metadata: {name: lens-ship, namespace: lens-ship}, "
    patch += 'data: {LENS_SHIP_WORKERS: "9"}}'
    ways = [
        {},
        {"patches": [{"patch": patch}]},
        {
            "configMapGenerator": [
                {"name": "lens-ship", "behavior": "merge", "literals": ["LENS_SHIP_WORKERS=8"]}
            ],
            "namespace": "lens-ship",
        },
    ]
    templates = []
    for number, way in enumerate(ways):
        found = overlay(tmp_path / str(number), resources=manifests.BASE, **way)
        given = only(found, "ConfigMap")
        (source,) = pod(found)["containers"][0]["envFrom"]
        assert source["configMapRef"]["name"] == given["metadata"]["name"]
        assert ("LENS_SHIP_WORKERS" in given["data"]) == (number > 0)
        templates.append(json.dumps(only(found, "DaemonSet")["spec"]["template"]))
    assert len(set(templates)) == 3


def overlay(folder: Any, **parts: Any) -> list[Object]:
    """What kustomize makes of an overlay; it takes paths relative to the overlay only."""
    folder.mkdir(exist_ok=True)
    up = "/".join([".."] * (len(folder.parts) - 1))
    given = {
        name: [f"{up}{part}"] if name in ("resources", "components") else part
        for name, part in parts.items()
    }
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({**head, **given}), encoding="utf-8")
    return manifests.built(folder)


def test_the_pod_monitor_is_a_component_that_an_overlay_adds(tmp_path: Any) -> None:
    component = manifests.BASE / "podmonitor"
    found = overlay(tmp_path, resources=manifests.BASE, components=component)
    monitor = only(found, "PodMonitor")
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "http"


def test_the_chart_gives_what_the_base_gives() -> None:
    def plain(one: Object) -> Object:
        """Without what only the one or the other has, and defaults that the other leaves out."""
        text = json.loads(json.dumps(one))
        _drop(text, {*OF_HELM, "app.kubernetes.io/version", "checksum/settings"})
        _drop(text, {"imagePullPolicy"})
        text["metadata"].pop("labels", None)
        template = text.get("spec", {}).get("template", {})
        template.get("metadata", {}).pop("annotations", None)
        return dict(text)

    ours = {one["kind"]: plain(one) for one in base() if one["kind"] != "Namespace"}
    theirs = {one["kind"]: plain(one) for one in rendered()}
    assert theirs == ours
    assert only(rendered(podMonitor={"enabled": True}), "PodMonitor")["spec"]["selector"]


def _drop(value: Any, names: set[str]) -> None:
    if isinstance(value, dict):
        for name in names:
            value.pop(name, None)
        for below in value.values():
            _drop(below, names)
    elif isinstance(value, list):
        for below in value:
            _drop(below, names)


def test_privileges_are_minimal(found: list[Object]) -> None:
    spec = pod(found)
    assert spec["automountServiceAccountToken"] is False
    assert only(found, "ServiceAccount")["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    for container in containers(found):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert container["resources"]["limits"]["memory"]
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    (prepare,), (service,) = spec["initContainers"], spec["containers"]
    assert prepare["securityContext"]["capabilities"]["add"] == ["CHOWN", "FOWNER", "FSETID"]
    assert "add" not in service["securityContext"]["capabilities"]
    assert "runAsUser" not in service["securityContext"]


def test_the_service_writes_only_to_its_volumes(found: list[Object]) -> None:
    spec = pod(found)
    kinds = {volume["name"]: set(volume) - {"name"} for volume in spec["volumes"]}
    assert kinds == {
        "spool": {"hostPath"},
        "state": {"hostPath"},
        "credentials": {"secret"},
        "config": {"configMap"},
        "tmp": {"emptyDir"},
    }
    (service,) = spec["containers"]
    mounts = {mount["name"]: mount for mount in service["volumeMounts"]}
    assert mounts.keys() == kinds.keys()
    assert mounts["credentials"]["readOnly"] is True
    assert mounts["config"]["readOnly"] is True


def test_the_settings_exist_and_can_be_used(found: list[Object]) -> None:
    given = only(found, "ConfigMap")["data"]
    assert given.keys() <= {setting.variable for setting in SETTINGS}
    config = load({}, given)
    assert config.warnings == ()
    assert config.pod_directories is True
    (service,) = pod(found)["containers"]
    mounted = {mount["mountPath"] for mount in service["volumeMounts"]}
    assert {str(config.spool), str(config.state)} <= mounted


def test_the_command_line_accepts_the_arguments(found: list[Object]) -> None:
    for container in (*containers(found), *containers(example())):
        if container["image"].startswith("lens-ship"):
            parse(container["args"])


def parse(words: list[str]) -> None:
    command = cli
    while hasattr(command, "list_commands"):
        command, words = commands_of(command)[words[0]], words[1:]  # type: ignore[assignment,arg-type]
    # Below its group, as a shell calls it: click keeps the help option of the first context.
    above = click.Context(cli, **cli.context_settings)
    command.make_context("lens-ship", list(words), parent=above)


def test_the_folders_are_prepared_for_the_user_that_runs(found: list[Object]) -> None:
    spec = pod(found)
    (prepare,), (service,) = spec["initContainers"], spec["containers"]
    user, group = (spec["securityContext"][name] for name in ("runAsUser", "runAsGroup"))
    assert f"--owner={user}:{group}" in prepare["args"]
    settings = only(found, "ConfigMap")["data"]
    assert settings["LENS_SHIP_SPOOL"] in prepare["args"]
    assert f"--state={settings['LENS_SHIP_STATE']}" in prepare["args"]
    paths = {mount["mountPath"]: mount["name"] for mount in service["volumeMounts"]}
    assert all(paths[mount["mountPath"]] == mount["name"] for mount in prepare["volumeMounts"])


def test_the_grace_period_fits_the_end_of_the_service(found: list[Object]) -> None:
    config = load({}, only(found, "ConfigMap")["data"])
    assert config.drain_seconds > 0
    grace = pod(found)["terminationGracePeriodSeconds"]
    assert grace > config.drain_seconds + 3 * LAST_SECONDS
    assert grace > STOP_SECONDS


def test_it_runs_on_every_node_and_apart_from_training(found: list[Object]) -> None:
    assert pod(found)["tolerations"] == [{"operator": "Exists"}]
    assert pod(found)["priorityClassName"] == only(found, "PriorityClass")["metadata"]["name"]
    assert only(found, "PriorityClass")["preemptionPolicy"] == "Never"
    selector = only(found, "DaemonSet")["spec"]["selector"]["matchLabels"]
    labels = only(found, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    policy = only(found, "NetworkPolicy")["spec"]
    assert selector.items() <= labels.items()
    assert policy["podSelector"]["matchLabels"] == selector
    assert policy["policyTypes"] == ["Ingress", "Egress"]


def example() -> list[Object]:
    return manifests.objects(manifests.EXAMPLE.read_text(encoding="utf-8"))


def test_the_example_records_where_the_service_looks() -> None:
    (job,) = example()
    spec = job["spec"]["template"]["spec"]
    (train,) = spec["containers"]
    variables = {one["name"]: one.get("value") for one in train["env"]}
    (spool,) = [mount for mount in train["volumeMounts"] if mount["name"] == "spool"]
    assert spool["subPathExpr"] == "$(POD_UID)"
    assert variables["PRIMUS_LENS_WANDB_OUTPUT_PATH"] == spool["mountPath"]
    assert next(iter(variables)) == "POD_UID"
    (volume,) = [one for one in spec["volumes"] if one["name"] == "spool"]
    assert volume["hostPath"]["path"] == only(base(), "ConfigMap")["data"]["LENS_SHIP_SPOOL"]
    (hook,) = spec["initContainers"]
    assert variables["PYTHONPATH"] == hook["args"][-1]
    assert hook["image"] in {container["image"] for container in containers(base())}


SCHEMA = json.loads((manifests.CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES = yaml.safe_load((manifests.CHART / "values.yaml").read_text(encoding="utf-8"))


def test_the_charts_values_fit_their_schema_and_each_has_one() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)
    assert VALUES.keys() | {"global"} == SCHEMA["properties"].keys()


@pytest.mark.parametrize(
    "wrong",
    [
        {"processorURL": "http://x"},
        {"processorUrl": "telemetry:8989"},
        {"spoolRoot": "var/spool"},
        {"user": {"uid": 0, "gid": 0}},
        {"settings": {"SPOOL": "/x"}},
        {"settings": {"LENS_SHIP_WORKERS": 4}},
        {"drainSeconds": -1},
    ],
    ids=str,
)
def test_the_schema_rejects_a_wrong_value(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**VALUES, **wrong}, SCHEMA)


def test_values_reach_the_objects() -> None:
    given = rendered(
        image={"repository": "registry.example/lens-ship", "tag": "7"},
        spoolRoot="/data/spool",
        user={"uid": 7, "gid": 8},
        settings={"LENS_SHIP_WORKERS": "9"},
        tolerations=[],
        extraVolumes=[{"name": "ca", "configMap": {"name": "ca"}}],
        extraVolumeMounts=[{"name": "ca", "mountPath": "/ca"}],
        drainSeconds=90,
        networkPolicy={"enabled": False},
        priorityClass={"create": False, "name": ""},
    )
    kinds = {one["kind"] for one in given}
    assert kinds == {"ServiceAccount", "ConfigMap", "DaemonSet"}
    spec = pod(given)
    assert "tolerations" not in spec
    assert spec["terminationGracePeriodSeconds"] == 100
    assert "priorityClassName" not in spec
    assert spec["volumes"][-1]["name"] == "ca"
    assert spec["containers"][0]["volumeMounts"][-1] == {"name": "ca", "mountPath": "/ca"}
    assert {container["image"] for container in containers(given)} == {
        "registry.example/lens-ship:7"
    }
    assert "--owner=7:8" in spec["initContainers"][0]["args"]
    data = only(given, "ConfigMap")["data"]
    assert (data["LENS_SHIP_SPOOL"], data["LENS_SHIP_WORKERS"]) == ("/data/spool", "9")
    kubernetes_validate.validate(only(given, "DaemonSet"), VERSIONS[-1], strict=True)


def test_an_image_is_named_by_its_digest() -> None:
    digest = f"sha256:{'0a' * 32}"
    jsonschema.validate({**VALUES, "image": {**VALUES["image"], "digest": digest}}, SCHEMA)
    found = rendered(image={"repository": "r/lens-ship", "tag": "7", "digest": digest})
    assert {container["image"] for container in containers(found)} == {f"r/lens-ship@{digest}"}


def test_dns_of_the_node_can_be_asked(found: list[Object]) -> None:
    dns, *_ = only(found, "NetworkPolicy")["spec"]["egress"]
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in dns["to"]


SINKS = """
[sinks.outside]
type = "otlp"
url = "https://otlp.example.com/otlp"

[sinks.here]
type = "prometheus"
url = "http://prometheus.monitoring.svc.cluster.local:9090/api/v1/write"

[sinks.tracking]
type = "mlflow"
url = "http://10.0.0.7:5000"
"""


def test_the_policy_lets_the_service_reach_what_is_configured() -> None:
    """The cluster's pods in any case, others by the ports that are used, nodes by address."""

    def beyond(**values: Any) -> list[Object]:
        policy = only(rendered(**values), "NetworkPolicy")
        kubernetes_validate.validate(policy, VERSIONS[-1], strict=True)
        _, cluster, *rest = policy["spec"]["egress"]
        assert cluster == {"to": [{"namespaceSelector": {}}]}
        return rest

    def ports(*numbers: int) -> list[Object]:
        return [{"port": number, "protocol": "TCP"} for number in numbers]

    assert beyond() == []
    (outside,) = beyond(config=SINKS)
    assert outside["ports"] == ports(443, 5000)
    assert {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}} in outside["to"]
    (outside,) = beyond(processorUrl="http://user:secret@telemetry.example/v1")
    assert outside["ports"] == ports(80)
    (outside,) = beyond(settings={"LENS_SHIP_PROCESSOR_URL": "https://[2001:db8::1]:8443/v1"})
    assert outside["ports"] == ports(8443)
    assert beyond(config='# url = "http://HOST:PORT/v1"\n') == []
    (outside,) = beyond(config='x = "http://HOST:PORT/v1"  # no port\n')
    assert outside["ports"] == ports(80)
    (nodes,) = beyond(networkPolicy={"nodes": ["10.1.0.0/16", "10.2.0.0/16"]})
    assert nodes == {"to": [{"ipBlock": {"cidr": f"10.{n}.0.0/16"}} for n in (1, 2)]}


def test_sinks_come_from_a_file(tmp_path: Any) -> None:
    given = rendered(config=SINKS, sidecar={"namespaces": ["a"]})
    files = {}
    for one in given:
        if one["kind"] == "ConfigMap" and "lens-ship.toml" in one["data"]:
            files[one["metadata"]["name"]] = one["data"]["lens-ship.toml"]
    assert files.keys() == {"lens-ship-config", "lens-ship-sidecar-config"}
    assert all(text.split() == SINKS.split() for text in files.values())
    volumes = [*pod(given)["volumes"], *pod_of_sidecar()["volumes"]]
    assert {one["configMap"]["name"] for one in volumes if "configMap" in one} == files.keys()
    (tmp_path / "lens-ship.toml").write_text(files["lens-ship-config"])
    for name, place in (
        ("lens-ship", "/etc/lens-ship"),
        ("lens-ship-sidecar", "/lens-ship/config"),
    ):
        (data,) = [
            one["data"] for one in given if one["metadata"]["name"] == name and "data" in one
        ]
        assert data.pop("LENS_SHIP_CONFIG") == f"{place}/lens-ship.toml"
        data["LENS_SHIP_SPOOL"] = "/lens-ship/spool"
        config = load({}, data, tmp_path / "lens-ship.toml", sends=True, check_sinks=table_problems)
        assert config.sinks.keys() == {"outside", "here", "tracking"}


@pytest.mark.parametrize(
    ("config", "sinks"),
    [
        ("# [sinks.later]\nworkers = 4\n", set()),
        ('[ sinks ]\nx = {type = "otlp", url = "http://h:4318"}\n', {"x"}),
    ],
    ids=["a comment", "one table"],
)
def test_the_processor_stays_unless_the_file_has_sinks(
    tmp_path: Any, config: str, sinks: set[str]
) -> None:
    (tmp_path / "lens-ship.toml").write_text(config)
    given = rendered(config=config, sidecar={"namespaces": ["a"]})
    for name in ("lens-ship", "lens-ship-sidecar"):
        (data,) = [
            one["data"] for one in given if one["metadata"]["name"] == name and "data" in one
        ]
        data |= {"LENS_SHIP_CONFIG": "", "LENS_SHIP_SPOOL": "/lens-ship/spool"}
        found = load({}, data, tmp_path / "lens-ship.toml", sends=True, check_sinks=table_problems)
        assert found.sinks.keys() == sinks
        assert bool(found.processor_url) == (not sinks)


def pod_of_sidecar() -> Object:
    spec: Object = only(manifests.sidecar(), "Job")["spec"]["template"]["spec"]
    return spec


def test_the_overlays_of_the_page_build(tmp_path: Any) -> None:
    """Of docs/deployment.md, beside a copy of the repository as they name it."""
    (tmp_path / "lens-ship" / "deploy").mkdir(parents=True)
    shutil.copytree(manifests.BASE, tmp_path / "lens-ship" / "deploy" / "kubernetes")
    blocks = re.findall(r"```yaml\n(.*?)```", manifests.PAGE.read_text(encoding="utf-8"), re.DOTALL)
    overlays = [block for block in blocks if "kind: Kustomization" in block]
    assert len(overlays) == 3
    for number, block in enumerate(overlays):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "kustomization.yaml").write_text(block)
        (folder / "lens-ship.toml").write_text(SINKS)
        shutil.copy(manifests.SIDECAR_EXAMPLE / "training-job.yaml", folder)
        found = manifests.built(folder)
        for one in found:
            kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
        if "lens-ship.toml" in block:
            files = [one for one in found if "lens-ship.toml" in one.get("data", {})]
            (volume,) = [one for one in pod(found)["volumes"] if one["name"] == "config"]
            assert volume["configMap"]["name"] == files[0]["metadata"]["name"]
            egress = only(found, "NetworkPolicy")["spec"]["egress"]
            assert len(egress) == len(only(base(), "NetworkPolicy")["spec"]["egress"]) + 1


def test_two_releases_have_nothing_in_common() -> None:
    first, second = (
        rendered(release="a"),
        rendered(release="b", spoolRoot="/b", stateDirectory="/c"),
    )
    names = [{(one["kind"], one["metadata"]["name"]) for one in each} for each in (first, second)]
    assert not names[0] & names[1]
    selectors = [
        only(each, "DaemonSet")["spec"]["selector"]["matchLabels"] for each in (first, second)
    ]
    assert selectors[0] != selectors[1]
    paths = [
        {one["hostPath"]["path"] for one in pod(each)["volumes"] if "hostPath" in one}
        for each in (first, second)
    ]
    assert not paths[0] & paths[1]
    for each in (first, second):
        assert pod(each)["priorityClassName"] == only(each, "PriorityClass")["metadata"]["name"]


def test_the_chart_passes_the_lint_of_helm_and_says_what_is_next() -> None:
    manifests.lint()
    assert "rollout status daemonset/x" in manifests.notes()
    assert "team-a may have the service as a sidecar" in manifests.notes(
        **{"sidecar.namespaces": "{team-a}", "daemonSet.enabled": "false"}
    )
    assert "/drainSeconds" in manifests.refused(drainSeconds=-1)


# --- OpenShift ------------------------------------------------------------------------------------

# The fields of SecurityContextConstraints that are set, of security.openshift.io/v1.
OF_CONSTRAINTS = {
    *("apiVersion", "kind", "metadata", "users", "volumes", "seccompProfiles", "runAsUser"),
    *("allowHostDirVolumePlugin", "allowHostIPC", "allowHostNetwork", "allowHostPID"),
    *("allowHostPorts", "allowPrivilegeEscalation", "allowPrivilegedContainer"),
    *("allowedCapabilities", "requiredDropCapabilities", "readOnlyRootFilesystem"),
    *("seLinuxContext", "fsGroup", "supplementalGroups"),
}
LEVEL = "s0:c0.c1023"


def on_openshift(source: str, folder: Any) -> list[Object]:
    if source == "helm":
        return rendered(
            securityContextConstraints={"create": True}, seLinuxOptions={"level": LEVEL}
        )
    return overlay(folder, resources=manifests.BASE, components=manifests.OPENSHIFT)


@pytest.mark.parametrize("source", SOURCES)
def test_the_constraints_allow_what_the_pod_needs_and_no_more(source: str, tmp_path: Any) -> None:
    found = on_openshift(source, tmp_path)
    given = only(found, "SecurityContextConstraints")
    assert given.keys() == OF_CONSTRAINTS
    account = only(found, "ServiceAccount")["metadata"]
    assert given["users"] == [f"system:serviceaccount:{account['namespace']}:{account['name']}"]
    kinds = {kind for volume in pod(found)["volumes"] for kind in volume if kind != "name"}
    assert set(given["volumes"]) == kinds
    added = {
        name
        for container in containers(found)
        for name in container["securityContext"]["capabilities"].get("add", ())
    }
    assert set(given["allowedCapabilities"]) == added
    allowed = {name for name in given if name.startswith("allow") and given[name] is True}
    assert allowed == {"allowHostDirVolumePlugin"}
    assert pod(found)["securityContext"]["seLinuxOptions"] == {"level": LEVEL}
    kubernetes_validate.validate(only(found, "DaemonSet"), VERSIONS[-1], strict=True)


def test_the_nodes_label_the_directories_of_the_pod() -> None:
    (config,) = manifests.objects((manifests.OPENSHIFT / "machineconfig.yaml").read_text())
    (unit,) = config["spec"]["config"]["systemd"]["units"]
    steps = [line for line in unit["contents"].splitlines() if line.startswith("ExecStart=")]
    paths = {one["hostPath"]["path"] for one in pod(base())["volumes"] if "hostPath" in one}
    assert all(paths <= set(step.split()) for step in steps)


def test_the_probes_ask_what_the_service_answers(found: list[Object], tmp_path: Any) -> None:
    (service,) = pod(found)["containers"]
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    paths = {service[name]["httpGet"]["path"] for name in probes} | {"/metrics"}
    listen = f"127.0.0.1:{reserved_port()}"
    (tmp_path / "spool").mkdir()
    running = start_lens_ship(
        "run",
        *("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state")),
        LENS_SHIP_HTTP_LISTEN=listen,
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(answers(f"http://{listen}{path}") for path in paths):
            assert time.monotonic() < deadline
            assert running.poll() is None
    finally:
        running.kill()
        running.communicate()


def answers(url: str) -> bool:
    """Whether it is answered with success."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False
