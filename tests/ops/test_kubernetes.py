"""The Kubernetes manifests: real schemas, whole kustomizations, and numbers that agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import kubernetes_validate
import pytest

from daisi_ws.config import Config, load
from daisi_ws.domain.deadlines import deadlines
from daisi_ws.embedded import free_ports
from tests.cluster import Host, Keys
from tests.e2e.scene import until
from tests.ops.alerts import REMAKE, prometheus_rule
from tests.ops.manifests import (
    BASE,
    KUSTOMIZATION,
    MANIFESTS,
    MONITORING,
    OVERLAY,
    Document,
    container,
    document,
    has_kustomize,
    kustomized,
    listed,
    resources,
)

FOLDERS = (BASE, MONITORING, OVERLAY)
OLDEST_CLUSTER = "1.30"
KEYS = {
    "DAISI_WS_AUTH_SECRET_TOKEN",
    "DAISI_WS_AUTH_TOKEN_AES_KEY",
    "DAISI_WS_AUTH_ADMIN_SECRET_TOKEN",
    "DAISI_WS_AUTH_ADMIN_TOKEN_AES_KEY",
}

each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
with_kustomize = pytest.mark.skipif(not has_kustomize(), reason="no kubectl on this machine")


def validated(documents: list[Document]) -> list[str]:
    """Hold documents against the schemas of the oldest and the newest cluster; return the kinds."""
    for one in documents:
        if one["apiVersion"] == "monitoring.coreos.com/v1":
            validate_monitoring(one)
            continue
        for version in (OLDEST_CLUSTER, kubernetes_validate.latest_version()):
            kubernetes_validate.validate(one, version, strict=True)
    return sorted(one["kind"] for one in documents)


def validate_monitoring(one: Document) -> None:
    """Hold what is for the Prometheus operator against its reference, as far as we use it."""
    assert set(one) == {"apiVersion", "kind", "metadata", "spec"}
    if one["kind"] == "PrometheusRule":
        assert set(one["spec"]) == {"groups"}
        return
    assert one["kind"] == "PodMonitor"
    assert set(one["spec"]) == {"selector", "podMetricsEndpoints"}
    for endpoint in one["spec"]["podMetricsEndpoints"]:
        assert set(endpoint) == {"port", "path", "interval", "scrapeTimeout"}
        assert seconds(endpoint["scrapeTimeout"]) < seconds(endpoint["interval"])


def seconds(text: str) -> float:
    """Return a duration of the operator, as far as we use them."""
    assert text.endswith("s")
    return float(text[:-1])


def of_kind(kind: str, folder: Path = BASE) -> Document:
    """Return the one resource of a kind."""
    (only,) = (one for one in resources(folder) if one["kind"] == kind)
    return only


def config_of(folder: Path) -> Config:
    """Return the configuration of a folder's ConfigMap, with keys as the Secret brings them."""
    environ = {name: f"{number:02d}" * 32 for number, name in enumerate(sorted(KEYS))}
    return load(folder / "config.yaml", environ, {}).config


def pod() -> Document:
    """Return the pod of the deployment."""
    made: Document = of_kind("Deployment")["spec"]["template"]
    return made


# -- the files ------------------------------------------------------------------------------------


def test_every_resource_is_valid() -> None:
    """All files by themselves, by the schemas of Kubernetes itself."""
    assert len(validated(resources(OVERLAY))) == 9


@each_folder
def test_kustomizations_name_what_is_there(folder: Path) -> None:
    """Every file that is named exists, and every file that exists is named."""
    named = set(listed(folder))
    assert not [path for path in named if not path.exists()]
    files = {path for path in folder.iterdir() if path.name != KUSTOMIZATION}
    assert files <= named
    assert {path.parent for path in MANIFESTS.rglob(KUSTOMIZATION)} == set(FOLDERS)


def test_patches_hit_something() -> None:
    """Each patch of the overlay has the name and kind of a resource."""
    there = {(one["kind"], one["metadata"]["name"]) for one in resources(OVERLAY)}
    patches = [document(OVERLAY / p["path"]) for p in document(OVERLAY / KUSTOMIZATION)["patches"]]
    assert {(one["kind"], one["metadata"]["name"]) for one in patches} <= there


@with_kustomize
def test_kustomize_makes_valid_manifests_of_the_example() -> None:
    """The real kustomize: namespace, image, patches and generated names arrive."""
    made = kustomized(OVERLAY)
    kinds = validated(made)
    assert "ConfigMap" in kinds
    assert "Secret" in kinds
    (deployment,) = (one for one in made if one["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == grace_of(OVERLAY)
    assert container(deployment)["image"] == "registry.example.com/daisi-ws:0.1.0"
    names = {one["kind"]: one["metadata"]["name"] for one in made}
    assert container(deployment)["envFrom"] == [{"secretRef": {"name": names["Secret"]}}]
    assert spec["volumes"][0]["configMap"]["name"] == names["ConfigMap"] != "daisi-ws"
    assert {one["metadata"].get("namespace", "daisi-ws") for one in made} == {"daisi-ws"}


def test_the_alerts_are_those_of_prometheus() -> None:
    """The operator gets what `conf/prometheus` has, which promtool has tested."""
    file = MONITORING / "prometheusrule.yaml"
    assert file.read_text(encoding="utf-8") == prometheus_rule(), REMAKE


# -- configuration and keys -----------------------------------------------------------------------


@pytest.mark.parametrize("folder", [BASE, OVERLAY], ids=lambda path: path.name)
def test_the_config_map_is_a_valid_configuration(folder: Path) -> None:
    """With the keys of the Secret, and the host's address and name from the downward API."""
    config = config_of(folder)
    variables = {
        each["name"]: each["valueFrom"]["fieldRef"]
        for each in container(of_kind("Deployment"))["env"]
    }
    assert {name: ref["fieldPath"] for name, ref in variables.items()} == {
        "DAISI_WS_SERVER_POD_ID": "metadata.name",
        "DAISI_WS_SERVER_ADVERTISE_HOST": "status.podIP",
    }
    assert config.server.workers > 0, "the node's cores are not the pod's"
    mounted = {
        each["name"]: each["mountPath"] for each in container(of_kind("Deployment"))["volumeMounts"]
    }
    assert container(of_kind("Deployment"))["args"][-1] == f"{mounted['config']}/config.yaml"


def test_the_keys_of_the_example_are_all_there_and_empty() -> None:
    """Who forgets to fill them in is refused, not served with keys that everybody knows."""
    lines = (OVERLAY / "keys.env").read_text().splitlines()
    assert {line for line in lines if not line.startswith("#")} == {f"{key}=" for key in KEYS}


# -- numbers --------------------------------------------------------------------------------------


def grace_of(folder: Path) -> float:
    """Return the last rung of the ladder for a folder's configuration."""
    config = config_of(folder)
    delay, timeout = config.server.shutdown_delay_seconds, config.app.shutdown_timeout_seconds
    return deadlines(timeout, delay).orchestrator_kill


def test_the_grace_periods_are_the_ladders() -> None:
    """`terminationGracePeriodSeconds` of the base, and of the overlay with its own numbers."""
    patch = document(OVERLAY / "deployment.yaml")["spec"]["template"]["spec"]
    assert pod()["spec"]["terminationGracePeriodSeconds"] == grace_of(BASE)
    assert patch["terminationGracePeriodSeconds"] == grace_of(OVERLAY)


def test_the_ports_are_the_configurations() -> None:
    """Container, Service, NetworkPolicy and PodMonitor name the ports that are listened on."""
    for folder in (BASE, OVERLAY):
        server = config_of(folder).server
        ports = {
            each["name"]: each["containerPort"]
            for each in container(of_kind("Deployment"))["ports"]
        }
        assert ports == {
            "http": server.http_port,
            "metrics": server.metrics_port,
            "grpc": server.grpc_port,
        }
        pods = {
            "protocol": "TCP",
            "port": server.grpc_port,
            "endPort": server.grpc_port + 2 * server.workers - 1,
        }
        policy = of_kind("NetworkPolicy")["spec"]
        clients, scrapes, peers = policy["ingress"]
        assert scrapes["ports"] == [{"protocol": "TCP", "port": server.metrics_port}]
        assert clients == {"ports": [{"protocol": "TCP", "port": server.http_port}]}
        assert peers["ports"] == policy["egress"][0]["ports"] == [pods]
        assert peers["from"] == policy["egress"][0]["to"] == [{"podSelector": selector()}]
        assert {each["port"] for each in policy["egress"][1]["ports"]} == servers(folder)
    (service,) = of_kind("Service")["spec"]["ports"]
    (endpoint,) = of_kind("PodMonitor", MONITORING)["spec"]["podMetricsEndpoints"]
    assert (service["targetPort"], endpoint["port"]) == ("http", "metrics")
    assert endpoint["path"] == "/metrics"


def servers(folder: Path) -> set[int]:
    """Return the ports of Redis and NATS."""
    config = config_of(folder)
    urls = [config.redis.address, *config.nats.url.split(",")]
    return {int(url.rpartition(":")[2]) for url in urls}


def selector() -> dict[str, Any]:
    """Return what our pods are chosen by."""
    return {"matchLabels": pod()["metadata"]["labels"]}


def test_everything_selects_our_pods() -> None:
    """Deployment, Service, budget, policies and monitor mean the same pods."""
    spec = of_kind("Deployment")["spec"]
    assert spec["selector"] == selector()
    assert of_kind("Service")["spec"]["selector"] == selector()["matchLabels"]
    assert of_kind("PodDisruptionBudget")["spec"]["selector"] == selector()
    assert of_kind("NetworkPolicy")["spec"]["podSelector"] == selector()
    assert of_kind("PodMonitor", MONITORING)["spec"]["selector"] == selector()
    for spread in pod()["spec"]["topologySpreadConstraints"]:
        assert spread["labelSelector"] == selector()
    target = of_kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == of_kind("Deployment")["metadata"]["name"]


def test_the_supervisor_acts_before_the_kubelet() -> None:
    """A hung worker is replaced before liveness costs the whole pod; a start may take its time."""
    server = config_of(BASE).server
    probes = container(of_kind("Deployment"))
    live, start, ready = (probes[f"{name}Probe"] for name in ("liveness", "startup", "readiness"))
    assert live["periodSeconds"] * live["failureThreshold"] > server.worker_timeout_seconds + 1
    assert start["periodSeconds"] * start["failureThreshold"] >= server.boot_timeout_seconds
    # A pod that is going is told to, and stays until it is out of the Service on every node.
    assert ready["periodSeconds"] * ready["failureThreshold"] <= server.shutdown_delay_seconds


def test_the_autoscaler_never_undercuts_the_budget() -> None:
    """There is always one pod that a drained node does not take away."""
    allowed = of_kind("PodDisruptionBudget")["spec"]["maxUnavailable"]
    assert of_kind("HorizontalPodAutoscaler")["spec"]["minReplicas"] > allowed


def test_the_pod_may_do_nothing_but_serve() -> None:
    """No root, no capability, no write but to /tmp, no token of the cluster."""
    spec = pod()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["securityContext"]["runAsUser"] > 0
    assert container(of_kind("Deployment"))["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {
        each["name"]: each["mountPath"] for each in container(of_kind("Deployment"))["volumeMounts"]
    }
    volumes = {volume["name"] for volume in spec["volumes"] if "emptyDir" in volume}
    assert [writable[name] for name in volumes] == ["/tmp"]


# -- the probes -----------------------------------------------------------------------------------


async def answer(host: Host, probe: str) -> int:
    """Return what a probe gets, as the kubelet asks."""
    path = container(of_kind("Deployment"))[f"{probe}Probe"]["httpGet"]["path"]
    try:
        async with aiohttp.ClientSession() as session, session.get(host.base_url + path) as reply:
            return reply.status
    except aiohttp.ClientError:
        return 0


@pytest.mark.timeout(120)
async def test_a_pod_that_waits_for_redis_lives_and_is_not_ready(
    tmp_path: Path, nats_url: str
) -> None:
    """Startup and liveness do not restart what a restart would not cure."""
    redis_url = f"redis://127.0.0.1:{free_ports()}"
    host = Host(
        tmp_path,
        redis_url,
        nats_url,
        keys=Keys(),
        environment={
            "DAISI_WS_CONFIG": str(BASE / "config.yaml"),
            "DAISI_WS_SERVER_SHUTDOWN_DELAY_SECONDS": "0.1",
            "DAISI_WS_SERVER_METRICS_PORT": "0",
        },
    )
    host.start()
    try:

        async def started() -> bool:
            return await answer(host, "startup") == 200

        await until(started, 50, "it did not start")
        assert await answer(host, "liveness") == 200
        assert await answer(host, "readiness") == 503
    finally:
        await host.close()
