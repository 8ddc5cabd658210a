"""The rendered manifests: valid for three versions of Kubernetes, no more privileged than the security page says."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from collectors import cluster_state
from tests.deploy import custom_resources
from tests.deploy.manifests import EACH_MANIFEST, MANIFESTS, ROOT, containers, objects, pods
from warpline import cli
from warpline.settings import Settings, load

CAPABILITIES = {"ebpf": {"BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "CHECKPOINT_RESTORE"}}
"""What docs/security.md lists, by container; every other container has none."""

NAMESPACE = "kubernetes.io/metadata.name"


def written(value: object) -> str:
    """A setting's value as a manifest writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@EACH_MANIFEST
@pytest.mark.parametrize("version", ["1.29", "1.31", "1.33"])
def test_every_object_is_valid_to_the_letter(path: Path, version: str) -> None:
    found = objects(path)
    assert len(found) > 6
    for each in found:
        if custom_resources.is_custom(each):
            custom_resources.validate(each, version)
        else:
            kubernetes_validate.validate(each, version, strict=True)


@EACH_MANIFEST
def test_no_container_has_a_privilege_that_the_security_page_does_not_list(path: Path) -> None:
    for container in containers(path):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["capabilities"]["drop"] == ["ALL"]
        assert set(context["capabilities"].get("add", [])) == CAPABILITIES.get(container["name"], set())
        assert "privileged" not in context
        assert context.get("runAsNonRoot") or container["name"] in ("ebpf", "gpu", "net")


@EACH_MANIFEST
def test_no_pod_uses_the_hosts_network_and_only_the_ebpf_pod_its_processes(path: Path) -> None:
    for name, spec in pods(path):
        assert not spec.get("hostNetwork")
        assert not spec.get("hostIPC")
        assert bool(spec.get("hostPID")) == (name == "warpline-collector")


@EACH_MANIFEST
def test_host_paths_are_mounted_read_only_but_for_warplines_own(path: Path) -> None:
    own = {"state", "rings"}
    for _, spec in pods(path):
        host_paths = {v["name"] for v in spec["volumes"] if "hostPath" in v}
        for container in spec["containers"]:
            writable = {m["name"] for m in container["volumeMounts"] if not m.get("readOnly")}
            assert writable & host_paths <= own


@EACH_MANIFEST
def test_every_volume_is_mounted_from_one_that_exists(path: Path) -> None:
    claims = {"state"}
    for _, spec in pods(path):
        volumes = {v["name"] for v in spec["volumes"]} | claims
        assert {m["name"] for c in spec["containers"] for m in c["volumeMounts"]} <= volumes


@EACH_MANIFEST
def test_access_to_the_cluster_is_reading_only_and_never_of_secrets(path: Path) -> None:
    rules = [rule for each in objects(path) if each["kind"] == "ClusterRole" for rule in each["rules"]]
    assert all(set(rule["verbs"]) <= {"get", "list", "watch"} for rule in rules)
    assert all("secrets" not in rule["resources"] and "*" not in rule["resources"] for rule in rules)


@EACH_MANIFEST
def test_every_variable_is_a_setting(path: Path) -> None:
    known = {f"WARPLINE_{f.name.upper()}" for f in fields(Settings)} | {"NODE_IP", "HOME"}
    given = {variable["name"] for container in containers(path) for variable in container["env"]}
    assert given <= known


@EACH_MANIFEST
def test_every_command_line_and_every_value_is_one_that_the_process_takes(path: Path) -> None:
    for container in containers(path):
        args = cli._parser(container["args"][0]).parse_args(container["args"])
        assert not hasattr(args, "sources") or args.sources is None
        given = {v["name"]: v["value"] for v in container["env"] if v["name"].startswith("WARPLINE_") and "value" in v}
        loaded = load(environ=given)
        assert {name: written(getattr(loaded, name.removeprefix("WARPLINE_").lower())) for name in given} == given


@EACH_MANIFEST
def test_every_path_that_a_setting_names_is_in_a_volume_that_is_mounted(path: Path) -> None:
    for container in containers(path):
        mounted = [Path(mount["mountPath"]) for mount in container["volumeMounts"]]
        named = [Path(v["value"]) for v in container["env"] if v.get("value", "").startswith("/")]
        assert named
        assert all(any(place == each or place in each.parents for place in mounted) for each in named)


def test_every_setting_is_given_by_a_value_of_its_own_or_may_be_given_by_its_name() -> None:
    code = "import json, sys; sys.path.insert(0, 'deploy'); import render; print(json.dumps(render.by_name()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    by_name = set(json.loads(done.stdout))
    schema = yaml.safe_load((ROOT / "deploy/helm/warpline/values.schema.json").read_text())
    assert set(schema["properties"]["settings"]["propertyNames"]["enum"]) == by_name, (
        "run: HELM_DRIVER=memory python deploy/render.py"
    )
    given = {
        v["name"].removeprefix("WARPLINE_").lower() for path in MANIFESTS for c in containers(path) for v in c["env"]
    }
    assert not given & by_name
    assert {"correlator_retention_gb", "alerts_thresholds", "process_arguments"} <= by_name


@EACH_MANIFEST
def test_every_source_that_is_asked_for_exists(path: Path) -> None:
    from warpline import source

    asked = [v["value"] for c in containers(path) for v in c["env"] if v["name"] == "WARPLINE_COLLECTOR_SOURCES"]
    assert asked
    assert {name for each in asked for name in each.split(",")} <= set(source.names())


READS = {
    "dcgm": "/var/lib/kubelet/pod-resources",
    "cuda_kernel": "/run/warpline/rings",
    "engine_step": "/run/warpline/rings",
    "hubble": "/var/run/cilium",
    "tetragon": "/var/run/tetragon",
    "envoy_log": "/var/log/pods",
}
"""What a node's source reads of the host, as its settings have it by default."""


@EACH_MANIFEST
def test_what_a_source_reads_is_mounted_where_it_runs_and_only_there(path: Path) -> None:
    node = [c for name, spec in pods(path) if name == "warpline-collector" for c in spec["containers"]]
    for container in node:
        sources = next(v["value"] for v in container["env"] if v["name"] == "WARPLINE_COLLECTOR_SOURCES").split(",")
        wanted = {READS[each] for each in sources if each in READS}
        assert wanted == {m["mountPath"] for m in container["volumeMounts"]} & set(READS.values())


@EACH_MANIFEST
def test_every_path_of_the_host_that_is_mounted_is_on_the_security_page(path: Path) -> None:
    page = (ROOT / "docs/security.md").read_text()
    words = {"rings": "ring directory", "pod-resources": "pod-resources socket"}
    words |= {"cilium": "Cilium", "tetragon": "Tetragon", "containerd": "containerd"}
    for _, spec in pods(path):
        for volume in spec["volumes"]:
            if "hostPath" in volume:
                assert words.get(volume["name"], volume["hostPath"]["path"]) in page, volume


@EACH_MANIFEST
def test_the_cluster_collector_may_read_what_its_source_watches(path: Path) -> None:
    rules = [rule for each in objects(path) if each["kind"] == "ClusterRole" for rule in each["rules"]]
    granted = {(group, kind) for rule in rules for group in rule["apiGroups"] for kind in rule["resources"]}
    parts = [path.strip("/").split("/") for path in cluster_state.WATCHED]
    wanted = {(each[1] if each[0] == "apis" else "", each[-1]) for each in parts}
    assert wanted <= granted or not any(c["name"] == "cluster" for c in containers(path))


@EACH_MANIFEST
def test_a_selector_selects_the_pods_that_it_means(path: Path) -> None:
    labels = [o["spec"]["template"]["metadata"]["labels"] for o in objects(path) if "template" in o.get("spec", {})]
    for each in objects(path):
        if each["kind"] == "Service":
            wanted = each["spec"]["selector"].items()
            assert sum(wanted <= found.items() for found in labels) == 1


@EACH_MANIFEST
def test_what_other_operators_ask_of_warpline_is_there_is_let_in_and_is_shown_the_token(path: Path) -> None:
    ports = {port["name"] for c in containers(path) for port in c["ports"]}
    token = {"name": "warpline-tokens", "key": "tokens"}
    policies = {each["metadata"]["name"]: each["spec"] for each in objects(path) if each["kind"] == "NetworkPolicy"}
    asked = {each["kind"]: each["spec"] for each in objects(path) if custom_resources.is_custom(each)}
    for endpoint in asked.get("PodMonitor", {}).get("podMetricsEndpoints", []):
        assert endpoint["port"] in ports
        shown = endpoint.get("authorization", {}).get("credentials")
        assert shown == (token if endpoint["port"] == "query" else None), "collectors' /metrics asks for none"
    for trigger in asked.get("ScaledObject", {}).get("triggers", []):
        if trigger["type"] == "metrics-api":
            assert (trigger["metadata"]["authMode"], trigger["metricType"]) == ("bearer", "Value")
            assert asked["TriggerAuthentication"]["secretTargetRef"] == [{"parameter": "token", **token}]
    for policy in (policies[each] for each in ("warpline-correlator", "warpline-collector") if each in policies):
        sources = [source for rule in policy["ingress"] for source in rule["from"]]
        let_in = {source.get("namespaceSelector", {}).get("matchLabels", {}).get(NAMESPACE) for source in sources}
        assert {"monitoring", "keda"} <= let_in


@EACH_MANIFEST
def test_the_queue_on_disk_fits_in_the_volume_that_it_lies_in(path: Path) -> None:
    for _, spec in pods(path):
        limits = {v["name"]: v["emptyDir"]["sizeLimit"] for v in spec["volumes"] if "emptyDir" in v}
        sizes = [
            sum(
                int(v["value"])
                for v in c["env"]
                if v["name"].startswith("WARPLINE_COLLECTOR_") and v["name"].endswith("_MB")
            )
            for c in spec["containers"]
        ]
        assert "state" not in limits or int(limits["state"].removesuffix("Mi")) > max(sizes) > 0
