"""The Helm chart, as Helm renders it: valid for Kubernetes, and in agreement with the programs that it runs."""

from __future__ import annotations

import difflib
import json
import re
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ml_code.gateway.front.app import create_app
from ml_code.gateway.front.edge import OPEN_PATHS
from ml_code.gateway.settings import GatewaySettings
from ml_code.triton_deploy.settings import Settings
from tests.support.charts import (
    CHART,
    NAMESPACE,
    ROOT,
    VALUE_SETS,
    Refused,
    Rendered,
    changed,
    packed,
    render,
    value_set,
)

NAME = "demo-model-serving"
STAGED = (("Deployment", "-staging"), ("StatefulSet", "-triton"))
"""The staging Triton, and those that serve."""
KUBERNETES = ("1.27", "1.37")
"""The oldest that Chart.yaml takes, and the newest that there are schemas of."""


@pytest.fixture(params=VALUE_SETS)
def chart(request: pytest.FixtureRequest) -> Rendered:
    return render(value_set(request.param))


@pytest.fixture
def triton() -> Rendered:
    return render(value_set("triton"))


@pytest.fixture
def nginx() -> Rendered:
    return render(value_set("nginx"))


@pytest.fixture
def everything() -> Rendered:
    return render(value_set("everything"))


@pytest.fixture
def local() -> Rendered:
    return render(value_set("local"))


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def selected(chart: Rendered, selector: Mapping[str, str]) -> list[dict[str, Any]]:
    """The workloads whose pods a selector finds; of a StatefulSet also by the name that each of its pods has."""
    found = []
    for workload in chart.workloads():
        name = workload["metadata"]["name"]
        count = workload["spec"].get("replicas", 1) if workload["kind"] == "StatefulSet" else 1
        labels = workload["spec"]["template"]["metadata"]["labels"]
        pods = [{**labels, "statefulset.kubernetes.io/pod-name": f"{name}-{i}"} for i in range(count)]
        if any(matches(selector, pod) for pod in pods):
            found.append(workload)
    return found


def ports(workload: dict[str, Any]) -> dict[str, int]:
    containers = workload["spec"]["template"]["spec"]["containers"]
    return {port["name"]: port["containerPort"] for c in containers for port in c["ports"]}


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def network_policy(chart: Rendered, component: str) -> dict[str, list[dict[str, Any]]]:
    """Who may call which port of a component."""
    policy = chart.one("NetworkPolicy", f"-{component}")["spec"]
    assert [w["metadata"]["name"] for w in selected(chart, policy["podSelector"]["matchLabels"])] == [
        f"{NAME}-{component}"
    ]
    return {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}


# What Helm and Kubernetes say.


def test_helm_lint_finds_nothing(chart: Rendered) -> None:
    assert [finding for finding in chart.lint if finding["severity"] > 1] == []


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_is_valid(chart: Rendered, version: str) -> None:
    checked = [found for found in chart.objects if found["kind"] != "ServiceMonitor"]
    for found in checked:
        kubernetes_validate.validate(found, version, strict=True)
    assert len(checked) >= 3


def test_the_oldest_kubernetes_is_the_one_that_is_checked() -> None:
    assert f'kubeVersion: ">={KUBERNETES[0]}.0-0"' in (CHART / "Chart.yaml").read_text()
    assert kubernetes_validate.latest_version().startswith(KUBERNETES[1])


def test_names_are_unique_and_fit(chart: Rendered) -> None:
    names = [(found["kind"], found["metadata"]["name"]) for found in chart.objects]
    assert len(set(names)) == len(names)
    # Helm takes no longer name of a release.
    longest = render(changed(value_set("everything"), "triton.replicas", 99), release="r" * 53)
    assert max(len(found["metadata"]["name"]) for found in longest.objects) <= 63
    [stateful] = longest.all("StatefulSet")
    assert {s["metadata"]["name"] for s in longest.all("Service")} >= {
        f"{stateful['metadata']['name']}-{ordinal}" for ordinal in range(99)
    }


# Pods.


def test_every_pod_runs_with_as_little_as_it_can(chart: Rendered) -> None:
    for pod in chart.pods():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        # A Service called gateway would set GATEWAY_PORT to tcp://….
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "hostPath" not in str(spec)
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


def test_every_pod_is_spread_and_evicted_one_at_a_time(chart: Rendered) -> None:
    budgets = chart.all("PodDisruptionBudget")
    for workload in chart.workloads():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert matches(workload["spec"]["selector"]["matchLabels"], labels)
        [spread] = workload["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert selected(chart, spread["labelSelector"]["matchLabels"]) == [workload]
        [budget] = [b for b in budgets if matches(b["spec"]["selector"]["matchLabels"], labels)]
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert len(budgets) == len(chart.workloads())


def test_images_are_pinned_by_digest(nginx: Rendered) -> None:
    images = [container["image"] for pod in nginx.pods() for container in pod["spec"]["containers"]]
    assert len(images) == 3
    assert all(
        re.fullmatch(r"[^:@\s]+(:\d+/[^:@\s]+)?:[^:@\s]+@sha256:[0-9a-f]{64}", image) for image in images
    )


def test_what_a_pod_mounts_is_there_and_the_repository_is_read_only(chart: Rendered) -> None:
    claims = {claim["metadata"]["name"] for claim in chart.all("PersistentVolumeClaim")} | {"models"}
    configurations = {found["metadata"]["name"] for found in chart.all("ConfigMap")}
    for pod in chart.pods():
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        [container] = pod["spec"]["containers"]
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert mounts.keys() == volumes.keys()
        assert mounts["tmp"]["mountPath"] == "/tmp"
        if "repository" in volumes:
            assert mounts["repository"]["readOnly"] is True
            assert volumes["repository"]["persistentVolumeClaim"]["claimName"] in claims
        if "configuration" in volumes:
            assert volumes["configuration"]["configMap"]["name"] in configurations


def test_the_claim_is_shared_and_outlives_the_release(triton: Rendered, everything: Rendered) -> None:
    [claim] = triton.all("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert everything.all("PersistentVolumeClaim") == []


def test_requests_in_flight_end_before_a_pod_is_killed(everything: Rendered) -> None:
    gateway = value_set("everything")["gateway"]["settings"]["GATEWAY_STOP_TIMEOUT_S"]
    nginx = re.search(r"worker_shutdown_timeout (\d+)s;", (CHART / "files/nginx.conf").read_text())
    exit_option = next(a for a in everything.container("triton")["args"] if "exit-timeout" in a)
    assert nginx
    needed = {
        "gateway": int(gateway),
        "nginx": int(nginx[1]),
        **dict.fromkeys(("triton", "staging"), int(exit_option.split("=")[1])),
    }
    for pod in everything.pods():
        [container] = pod["spec"]["containers"]
        pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert pause >= 5
        assert pod["spec"]["terminationGracePeriodSeconds"] > needed[container["name"]] + pause
    default = render(value_set("triton")).one("Deployment", "-gateway")["spec"]["template"]["spec"]
    assert default["terminationGracePeriodSeconds"] > GatewaySettings().stop_timeout_s + 5


def test_the_user_id_of_an_openshift_project_is_written_out(everything: Rendered) -> None:
    pod = everything.one("Deployment", "-gateway")["spec"]["template"]["spec"]
    # Helm reads numbers as floating point: 1.00065e+09 is the same here, and no number of a user to Kubernetes.
    assert (
        str(pod["securityContext"]["runAsUser"]) == str(pod["securityContext"]["runAsGroup"]) == "1000650000"
    )


# Who reaches whom.


def test_services_find_one_workload_and_its_ports(chart: Rendered) -> None:
    for service in chart.all("Service"):
        [workload] = selected(chart, service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports(workload).keys()


def test_probes_ports_and_scrapes_name_ports_that_exist(chart: Rendered) -> None:
    for workload in chart.workloads():
        [container] = workload["spec"]["template"]["spec"]["containers"]
        for probe in ("livenessProbe", "readinessProbe"):
            asked = container[probe].get("httpGet") or container[probe]["tcpSocket"]
            assert asked["port"] in ports(workload)
    for policy in chart.all("NetworkPolicy"):
        [workload] = selected(chart, policy["spec"]["podSelector"]["matchLabels"])
        for rule in policy["spec"]["ingress"]:
            # The gateway alone is for everybody, unless its callers are named.
            everybody = workload["metadata"]["name"].endswith("-gateway") and "from" not in rule
            assert everybody or rule["from"], "an empty list would be everybody"
            assert {port["port"] for port in rule["ports"]} <= ports(workload).keys()
    for monitor in chart.all("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        [service] = [s for s in chart.all("Service") if matches(wanted, s["metadata"]["labels"])]
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_jobs_of_the_monitors_are_those_by_which_the_shipped_rules_ask(everything: Rendered) -> None:
    """By default the Prometheus Operator names a job like the Service: then no rule on `up` would find it."""
    shipped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    wanted = {config["job_name"]: config.get("metrics_path", "/metrics") for config in shipped}
    endpoints = [e for monitor in everything.all("ServiceMonitor") for e in monitor["spec"]["endpoints"]]
    jobs = {rule["replacement"]: e["path"] for e in endpoints for rule in e["relabelings"]}
    assert jobs == wanted
    keys = {e["path"] for e in endpoints if "authorization" in e}
    assert keys == {"/metrics", "/metrics/deployments"}


def test_a_triton_that_is_not_ready_is_reached_by_the_deployer_alone(triton: Rendered) -> None:
    headless = triton.one("Service", "-triton")["spec"]
    assert headless["clusterIP"] == "None"
    assert headless["publishNotReadyAddresses"] is True
    stateful = triton.one("StatefulSet", "-triton")["spec"]
    assert stateful["serviceName"] == f"{NAME}-triton"
    # Otherwise the second Triton would wait for the first to be ready, which it is by a deploy to both.
    assert stateful["podManagementPolicy"] == "Parallel"
    for ordinal in range(stateful["replicas"]):
        assert "publishNotReadyAddresses" not in triton.one("Service", f"-triton-{ordinal}")["spec"]


def test_the_deployer_is_told_the_address_of_all_gateways(triton: Rendered, local: Rendered) -> None:
    """One address for all of them would answer with another one's figures each time."""
    [told] = re.findall(r"TRITON_DEPLOY_GATEWAY_URLS=http://([^.]+)\.\S+:(\d+)", triton.notes)
    service = triton.one("Service", told[0].removeprefix(NAME))["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True, "one that refuses clients has counted as well"
    assert [str(port["port"]) for port in service["ports"]] == [told[1]]
    assert "GATEWAY_API_KEY" not in triton.notes
    assert "TRITON_DEPLOY_GATEWAY_URLS" not in local.notes


def test_the_deployer_is_told_of_the_key_that_gateways_want(everything: Rendered) -> None:
    secret = value_set("everything")["gateway"]["apiKeySecret"]["name"]
    assert f"GATEWAY_API_KEY=the key in Secret {secret}" in everything.notes


def test_the_deployer_is_told_the_address_of_all_tritons(triton: Rendered) -> None:
    [default] = Settings().triton.grpc_urls
    port = default.rpartition(":")[2]
    [told] = re.findall(r"TRITON_DEPLOY_GRPC_URLS=(\S+)", triton.notes)
    assert told == f"dns:///{NAME}-triton.{NAMESPACE}.svc:{port}"
    assert Settings.from_env({"TRITON_DEPLOY_GRPC_URLS": told}).triton.grpc_urls == (told,)
    assert ports(triton.one("StatefulSet", "-triton"))["grpc"] == int(port)
    assert int(port) in {p["port"] for p in triton.one("Service", "-triton")["spec"]["ports"]}


def http_callers(chart: Rendered) -> list[list[str]]:
    """The workloads that each peer of Triton's HTTP port selects."""
    peers = network_policy(chart, "triton")["http"]
    assert all(peer.keys() == {"podSelector"} for peer in peers)
    found = [selected(chart, peer["podSelector"]["matchLabels"]) for peer in peers]
    return [[workload["metadata"]["name"] for workload in workloads] for workloads in found]


def test_only_the_deployer_loads_models(triton: Rendered, everything: Rendered) -> None:
    workers = {"podSelector": {"matchLabels": {"tier": "airflow", "component": "worker"}}}
    assert network_policy(triton, "triton")["grpc"] == [workers]
    assert network_policy(everything, "triton")["grpc"] == value_set("everything")["deployer"]["from"]


def test_by_default_clients_reach_the_tritons_through_the_gateway_alone() -> None:
    # Without digests, an nginx that is on by default renders, and fails here by what it opens.
    values = changed(value_set("triton"), "requireDigests", False)
    chart = render(changed(values, "ingress", {"enabled": True, "host": "models.example.com"}))
    assert http_callers(chart) == [[f"{NAME}-gateway"]]
    assert network_policy(chart, "triton").keys() == {"http", "grpc"}
    assert {w["metadata"]["name"] for w in chart.workloads()} == {f"{NAME}-gateway", f"{NAME}-triton"}
    for service in chart.all("Service"):
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
    for pod in chart.pods():
        assert "hostNetwork" not in pod["spec"]
        assert "hostPort" not in str(pod["spec"])
    [ingress] = chart.all("Ingress")
    paths = [path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]
    assert [path["backend"]["service"]["name"] for path in paths] == [f"{NAME}-gateway"]
    assert "nginx" not in chart.notes


def test_nginx_reaches_the_tritons_where_it_is_enabled(nginx: Rendered, everything: Rendered) -> None:
    for chart in (nginx, everything):
        assert http_callers(chart) == [[f"{NAME}-gateway"], [f"{NAME}-nginx"]]
        assert f"http://{NAME}-nginx.{NAMESPACE}.svc" in chart.notes
        assert "one of them can end a Triton" in chart.notes
    assert network_policy(nginx, "nginx")["http"] == [{"podSelector": {}}]


def test_triton_calls_nobody(triton: Rendered) -> None:
    policy = triton.one("NetworkPolicy", "-triton")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    assert network_policy(triton, "triton").keys() == {"http", "grpc"}


def test_prometheus_may_scrape_triton_and_shows_the_gateway_its_key(everything: Rendered) -> None:
    assert network_policy(everything, "triton")["metrics"] == value_set("everything")["monitoring"]["from"]
    monitors = {m["metadata"]["name"]: m["spec"]["endpoints"][0] for m in everything.all("ServiceMonitor")}
    assert monitors[f"{NAME}-gateway"]["authorization"]["credentials"] == {
        "name": "gateway-key",
        "key": "api-key",
    }
    assert monitors.keys() == {f"{NAME}-gateway", f"{NAME}-triton", f"{NAME}-staging"}
    assert all(m["metadata"]["labels"]["release"] == "prometheus" for m in everything.all("ServiceMonitor"))


def may_call(chart: Rendered, component: str) -> set[tuple[str, str]]:
    """What a component may call, by workload and port; all of DNS is one."""
    policy = chart.one("NetworkPolicy", f"-{component}")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    found = set()
    for rule in policy["egress"]:
        if "to" not in rule:
            assert {(port["port"], port["protocol"]) for port in rule["ports"]} == {(53, "UDP"), (53, "TCP")}
            found.add(("DNS", "53"))
        for peer in rule.get("to", []):
            [workload] = selected(chart, peer["podSelector"]["matchLabels"])
            found |= {
                (workload["metadata"]["name"].removeprefix(f"{NAME}-"), p["port"]) for p in rule["ports"]
            }
    return found


def test_gateway_and_nginx_call_the_tritons_and_nobody_else(
    triton: Rendered, everything: Rendered, local: Rendered
) -> None:
    tritons = {("DNS", "53"), ("triton", "http")}
    assert may_call(triton, "gateway") == may_call(everything, "gateway") == tritons
    assert may_call(everything, "nginx") == {*tritons, ("gateway", "http")}
    # By default everybody may call the gateway, and its one port.
    [rule] = triton.one("NetworkPolicy", "-gateway")["spec"]["ingress"]
    assert rule == {"ports": [{"port": "http"}]}
    # It asks MLflow and its store, wherever they are.
    assert local.one("NetworkPolicy", "-gateway")["spec"]["policyTypes"] == ["Ingress"]


# The staging Triton.


def test_without_a_gpu_to_spare_there_is_no_staging_triton(triton: Rendered, local: Rendered) -> None:
    assert value_set("triton").get("tritonStaging") is None
    for chart in (triton, local, render(changed(value_set("local"), "tritonStaging", {"enabled": True}))):
        assert "staging" not in str(chart.objects).lower()
        assert "STAGING" not in chart.notes


def test_the_staging_triton_is_one_of_those_that_serve_but_starts_empty(everything: Rendered) -> None:
    deployment = everything.one("Deployment", "-staging")["spec"]
    # Two would not fit on one GPU, and a deploy is alone in it.
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    staging, serving = everything.container("staging"), everything.container("triton")
    assert set(serving["args"]) - set(staging["args"]) == {"--load-model=*"}
    assert set(staging["args"]) <= set(serving["args"])
    assert "--log-verbose=1" in staging["args"], "the values' own arguments, too"
    for key in ("image", "env", "ports", "securityContext", "volumeMounts", "startupProbe", "livenessProbe"):
        assert staging[key] == serving[key], key
    # It serves no model of its own.
    assert staging["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"


def test_what_is_not_said_of_the_staging_triton_is_as_with_those_that_serve(everything: Rendered) -> None:
    assert (
        everything.container("staging")["resources"] == value_set("everything")["tritonStaging"]["resources"]
    )
    pods = [everything.one(kind, name)["spec"]["template"]["spec"] for kind, name in STAGED]
    for key in ("nodeSelector", "tolerations", "securityContext"):
        assert pods[0][key] == pods[1][key], key
    own = {"enabled": True, "nodeSelector": {"pool": "spare"}, "tolerations": [{"operator": "Exists"}]}
    other = render(changed(value_set("everything"), "tritonStaging", own))
    assert other.container("staging")["resources"] == other.container("triton")["resources"]
    pod = other.one("Deployment", "-staging")["spec"]["template"]["spec"]
    assert (pod["nodeSelector"], pod["tolerations"]) == (own["nodeSelector"], own["tolerations"])


def test_only_the_deployer_and_prometheus_reach_the_staging_triton(everything: Rendered) -> None:
    values = value_set("everything")
    assert network_policy(everything, "staging") == {
        "grpc": values["deployer"]["from"],
        "metrics": values["monitoring"]["from"],
    }
    policy = everything.one("NetworkPolicy", "-staging")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    assert "staging" not in str([everything.container("gateway"), *everything.all("ConfigMap", "Ingress")])
    # A Service that found both kinds would send clients there, or a deploy to both.
    for suffix in ("-triton", "-staging"):
        selector = everything.one("Service", suffix)["spec"]["selector"]
        assert [w["metadata"]["name"] for w in selected(everything, selector)] == [f"{NAME}{suffix}"]


def test_the_deployer_is_told_the_address_of_the_staging_triton(everything: Rendered) -> None:
    [told] = re.findall(r"TRITON_DEPLOY_STAGING_GRPC_URL=(\S+)", everything.notes)
    assert Settings.from_env({"TRITON_DEPLOY_STAGING_GRPC_URL": told}).triton.staging_grpc_url == told
    name, _, port = told.partition(":")
    service = everything.one("Service", "-staging")
    assert name == f"{service['metadata']['name']}.{NAMESPACE}.svc"
    assert {p["name"]: p["port"] for p in service["spec"]["ports"]}["grpc"] == int(port)


def test_what_a_candidate_did_in_the_staging_triton_is_not_counted_as_served(everything: Rendered) -> None:
    [endpoint] = everything.one("ServiceMonitor", "-staging")["spec"]["endpoints"]
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    [job] = [job for job in jobs if job["job_name"] == "triton-staging"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": job["job_name"]}]
    [ours], [theirs] = endpoint["metricRelabelings"], job["metric_relabel_configs"]
    assert (ours["sourceLabels"], ours["regex"], ours["action"]) == (
        theirs["source_labels"],
        theirs["regex"],
        theirs["action"],
    )


def test_clients_that_are_named_are_the_only_ones_beside_nginx_and_the_deployer(everything: Rendered) -> None:
    named, nginx, *deployer = network_policy(everything, "gateway")["http"]
    assert [named] == value_set("everything")["gateway"]["from"]
    assert deployer == value_set("everything")["deployer"]["from"], "it reads what they count"
    assert selected(everything, nginx["podSelector"]["matchLabels"]) == [
        everything.one("Deployment", "-nginx")
    ]


def test_the_ingress_leads_to_the_gateway_unless_told_otherwise(everything: Rendered) -> None:
    default = render(changed(value_set("everything"), "ingress.target", "gateway"))
    for chart, target in ((everything, "nginx"), (default, "gateway")):
        [ingress] = chart.all("Ingress")
        [rule] = ingress["spec"]["rules"]
        backend = rule["http"]["paths"][0]["backend"]["service"]
        assert backend["name"] == f"{NAME}-{target}"
        service = chart.one("Service", f"-{target}")
        assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
        assert ingress["spec"]["tls"] == [{"hosts": [rule["host"]], "secretName": "models-tls"}]


def test_autoscaling_leaves_the_number_of_gateways_alone(everything: Rendered) -> None:
    [scaler] = everything.all("HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]
    gateway = everything.one(target["kind"], "-gateway")
    assert target["name"] == gateway["metadata"]["name"]
    assert "replicas" not in gateway["spec"]


# What the programs are told.


def test_the_gateway_understands_what_it_is_told(chart: Rendered) -> None:
    container = chart.container("gateway")
    known = {f.metadata["variable"] for f in (*GatewaySettings.declared(), *Settings.declared())}
    assert {entry["name"] for entry in container["env"]} <= known
    settings = GatewaySettings.from_env(variables(container))
    Settings.from_env(variables(container))
    assert settings.port == ports(chart.one("Deployment", "-gateway"))["http"] == GatewaySettings().port
    assert settings.host == "0.0.0.0"


def test_every_setting_of_the_gateway_can_be_given_and_no_other(
    everything: Rendered, local: Rendered
) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    settings = schema["properties"]["gateway"]["properties"]["settings"]["propertyNames"]["enum"]
    gateway = {f.metadata["variable"] for f in GatewaySettings.declared()}
    own = {entry["name"] for chart in (everything, local) for entry in chart.container("gateway")["env"]}
    given = {name for values in VALUE_SETS for name in value_set(values)["gateway"].get("settings", {})}
    assert gateway - set(settings) == (own - given) & gateway
    assert set(settings) - gateway <= {f.metadata["variable"] for f in Settings.declared() if f.repr}


def test_the_gateway_calls_every_triton_by_its_own_service(triton: Rendered, everything: Rendered) -> None:
    for chart, count in ((triton, 2), (everything, 3)):
        settings = GatewaySettings.from_env(variables(chart.container("gateway")))
        assert len(settings.triton_urls) == count == chart.one("StatefulSet", "-triton")["spec"]["replicas"]
        for ordinal, url in enumerate(settings.triton_urls):
            service = chart.one("Service", f"-triton-{ordinal}")
            [port] = service["spec"]["ports"]
            assert url == f"{service['metadata']['name']}:{port['port']}"
            assert (
                service["spec"]["selector"]["statefulset.kubernetes.io/pod-name"]
                == f"{NAME}-triton-{ordinal}"
            )


def test_gateway_and_triton_have_the_same_model_and_repository(everything: Rendered) -> None:
    settings = GatewaySettings.from_env(variables(everything.container("gateway")))
    triton = everything.container("triton")
    assert settings.repository == Path("/models/prod/eu")
    assert f"--model-repository={settings.repository}" in triton["args"]
    for container in (triton, everything.container("gateway")):
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert settings.repository.is_relative_to(mounts["repository"])
    assert settings.model == "iris"
    assert triton["readinessProbe"]["httpGet"]["path"] == "/v2/models/iris/ready"


def test_triton_starts_as_the_documents_say(triton: Rendered) -> None:
    [line] = re.findall(
        r"^tritonserver (.+)$", (ROOT / "docs/how-to/start-triton.md").read_text(), re.MULTILINE
    )
    options = {option for option in line.replace("'", "").split() if "model-repository" not in option}
    assert len(options) == 5
    assert options <= set(triton.container("triton")["args"])


def test_the_gateways_probes_need_no_key_and_exist(chart: Rendered) -> None:
    container = chart.container("gateway")
    asked = {
        container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert asked == {"/health/live", "/health/ready"}
    assert asked <= OPEN_PATHS
    settings = GatewaySettings(repository=Path("/models"))
    pages = create_app(settings)._pages
    routes = {getattr(route, "path", None) for route in pages.routes}
    assert {*asked, "/metrics"} <= routes


def test_the_local_backend_gets_mlflow_and_nothing_of_triton(local: Rendered) -> None:
    container = local.container("gateway")
    told = variables(container)
    assert GatewaySettings.from_env(told).backend == "local"
    assert GatewaySettings.from_env(told).alias == "champion"
    assert Settings.from_env(told).mlflow.tracking_url == "http://mlflow:5000"
    assert container["envFrom"] == [{"secretRef": {"name": "mlflow-login"}}]
    assert local.one("Deployment", "-gateway") == local.workloads()[0]
    assert "triton-0" not in str(local.objects)
    assert "TRITON_DEPLOY_GRPC_URLS" not in local.notes


def test_secrets_are_only_referred_to(chart: Rendered) -> None:
    assert chart.all("Secret") == []
    # The metadata of a secret setting keeps it out of what is printed of the settings.
    secret = {
        f.metadata["variable"] for f in (*GatewaySettings.declared(), *Settings.declared()) if not f.repr
    }
    assert {"GATEWAY_API_KEY", "MLFLOW_TRACKING_PASSWORD"} <= secret
    for pod in chart.pods():
        for container in pod["spec"]["containers"]:
            told = {entry["name"]: entry for entry in container.get("env", [])}
            assert all(
                "valueFrom" in told[name] and "value" not in told[name] for name in secret & told.keys()
            )
    for configuration in chart.all("ConfigMap"):
        assert configuration["data"].keys() == {"nginx.conf"}


def test_the_key_comes_from_the_secret(everything: Rendered, local: Rendered) -> None:
    for chart, key in ((everything, "api-key"), (local, "key")):
        [entry] = [e for e in chart.container("gateway")["env"] if e["name"] == "GATEWAY_API_KEY"]
        assert entry["valueFrom"] == {"secretKeyRef": {"name": "gateway-key", "key": key}}


# nginx's configuration has one source.


def test_nginx_runs_the_shipped_configuration_with_other_addresses(nginx: Rendered) -> None:
    shipped = (ROOT / "deploy/nginx/nginx.conf").read_text().splitlines()
    rendered = nginx.one("ConfigMap", "-nginx")["data"]["nginx.conf"].strip().splitlines()
    lines = [line for line in difflib.ndiff(shipped, rendered) if line[0] in "+-"]
    assert [line[1:].strip() for line in lines if line[0] == "-"] == [
        "worker_processes auto;",
        "server 127.0.0.1:8000 max_fails=1 fail_timeout=1s;",
        "server 127.0.0.1:8010 max_fails=1 fail_timeout=1s;",
        "server 127.0.0.1:8100 max_fails=0;",
        "listen 127.0.0.1:8080 backlog=2048;",
    ]
    assert [line[1:].strip() for line in lines if line[0] == "+"] == [
        "worker_processes 2;",
        f"server {NAME}-triton-0:8000 max_fails=1 fail_timeout=1s;",
        f"server {NAME}-triton-1:8000 max_fails=1 fail_timeout=1s;",
        f"server {NAME}-gateway:80 max_fails=0;",
        "listen 8080 backlog=2048;",
    ]
    assert ports(nginx.one("Deployment", "-nginx"))["http"] == 8080
    [gateway] = nginx.one("Service", "-gateway")["spec"]["ports"]
    assert gateway["port"] == 80


def test_a_packed_chart_is_the_same(everything: Rendered, tmp_path: Path) -> None:
    archive = packed(tmp_path)
    with tarfile.open(archive) as content:
        assert content.getmember("model-serving/files/nginx.conf").isfile()
    assert render(value_set("everything"), archive).objects == everything.objects


def test_an_nginx_configuration_that_the_chart_does_not_know_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "model-serving"
    shutil.copytree(CHART, copy)
    text = (copy / "files/nginx.conf").read_text()
    for shipped, other in (
        ("127.0.0.1:8000", "127.0.0.1:9000"),
        ("listen 127.0.0.1:8080", "listen [::1]:8080"),
    ):
        (copy / "files/nginx.conf").write_text(text.replace(shipped, other))
        with pytest.raises(Refused, match="does not have the lines that this template replaces"):
            render({**value_set("nginx"), "model": f"m{len(other)}"}, copy)


# What is refused.


def test_without_values_the_first_that_is_missing_is_named() -> None:
    with pytest.raises(Refused, match=r"Set (gateway\.image\.repository|\w+\.image\.digest)"):
        render({})


@pytest.mark.parametrize(
    ("values", "path", "value", "said"),
    [
        ("triton", "gateway.image.repository", "", "Set gateway.image.repository"),
        ("triton", "gateway.image.tag", "", "Set gateway.image.tag"),
        ("triton", "triton.image.digest", "", "Set triton.image.digest"),
        ("nginx", "nginx.image.digest", "", "Set nginx.image.digest"),
        ("nginx", "nginx.image.digest", "sha256:1234", "digest"),
        (
            "nginx",
            "gateway.apiKeySecret",
            {"name": "gateway-key"},
            "nginx does not ask for the gateway.s API keys",
        ),
        ("everything", "triton.image.tag", "latest", "tag"),
        ("everything", "nginx.withoutApiKey", False, "nginx does not ask for the gateway.s API keys"),
        ("everything", "nginx.enabled", False, "there is no nginx"),
        ("everything", "ingress.host", "", "Set ingress.host"),
        ("everything", "monitoring.from", [], "Set monitoring.from"),
        ("triton", "deployer.from", [], "deployer"),
        ("nginx", "nginx.from", [], "nginx"),
        ("everything", "tritonStaging.replicas", 2, "replicas"),
        ("everything", "triton.image.tag", "", "Set triton.image.tag"),
        ("triton", "gateway.replicas", 0, "replicas"),
        ("triton", "gateway.runAsUser", 0, "runAsUser"),
        ("triton", "model", "../escape", "model"),
        ("triton", "repository.folder", "../other", "folder"),
        ("triton", "gateway.settings", {"GATEWAY_API_KEY": "in the open"}, "GATEWAY_API_KEY"),
        ("triton", "gateway.settings", {"GATEWAY_PORT": "80"}, "GATEWAY_PORT"),
        ("triton", "gateway.settings", {"GATEWAY_WROKERS": "2"}, "GATEWAY_WROKERS"),
        ("triton", "gateway.settings", {"GATEWAY_MAX_BODY_BYTES": 33554432}, "settings"),
        ("triton", "gateway.repliacs", 3, "repliacs"),
        ("local", "mlflow.trackingUri", "", "Set mlflow.trackingUri"),
        ("local", "mlflow.trackingUri", "mlflow:5000", "trackingUri"),
    ],
)
def test_values_that_would_fail_later_are_refused(values: str, path: str, value: Any, said: str) -> None:
    with pytest.raises(Refused, match=said):
        render(changed(value_set(values), path, value))
