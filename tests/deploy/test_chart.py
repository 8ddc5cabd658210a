"""The chart: what it makes of the values that a person gives, and which it refuses with a sentence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import MANIFESTS, ROOT, Object, containers, objects, pods

NO_HELM = "helm_sdkpy is not installed: ./setup.sh installs it where its wheel exists"
INFO = 1
"""Helm's mildest severity: that a chart might have an icon."""


def test_the_chart_carries_the_rules_that_are_tested() -> None:
    chart, tested = (ROOT / f"deploy/{p}/warpline-rules.yaml" for p in ("helm/warpline/files", "prometheus"))
    assert chart.read_text() == tested.read_text()


def test_every_value_of_the_chart_is_in_its_schema_and_unknown_ones_are_refused() -> None:
    schema = yaml.safe_load((ROOT / "deploy/helm/warpline/values.schema.json").read_text())
    values = yaml.safe_load((ROOT / "deploy/helm/warpline/values.yaml").read_text())

    def compare(declared: Object, given: Object) -> None:
        assert declared["additionalProperties"] is False
        assert set(given) <= set(declared["properties"])
        for name, value in given.items():
            if "properties" in declared["properties"][name]:
                compare(declared["properties"][name], value)

    compare(schema, values)


@pytest.mark.slow
def test_the_manifests_are_what_helm_renders(tmp_path: Path) -> None:
    pytest.importorskip("helm_sdkpy", reason=NO_HELM)
    code = "import sys; sys.path.insert(0, 'deploy'); import render; from pathlib import Path\n"
    code += "for n, v in render.cases().items(): Path(sys.argv[1], n).write_text(render.render(v))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "HELM_DRIVER": "memory"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for path in MANIFESTS:
        kept = re.sub(r"\A#.*\n", "", path.read_text())
        assert kept.strip() == (tmp_path / path.stem).read_text().strip(), (
            f"run: HELM_DRIVER=memory python {path.parent.parent}/render.py"
        )


def rendered(values: str) -> subprocess.CompletedProcess[str]:
    """What Helm says to values, given as Python writes them."""
    pytest.importorskip("helm_sdkpy", reason=NO_HELM)
    code = f"import sys; sys.path.insert(0, 'deploy'); import render; print(render.render({values}))"
    environment = {**os.environ, "HELM_DRIVER": "memory"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def made(directory: Path, values: Object) -> Path:
    """The manifest that the chart makes of values."""
    done = rendered(repr(values))
    assert done.returncode == 0, done.stderr
    manifest = directory / "made.yaml"
    manifest.write_text(done.stdout)
    return manifest


@pytest.mark.slow
def test_helm_finds_nothing_to_warn_of() -> None:
    pytest.importorskip("helm_sdkpy", reason=NO_HELM)
    code = "import asyncio, json, helm_sdkpy as h; asked = h.Lint(h.Configuration(namespace='warpline'))"
    code += ".run('deploy/helm/warpline'); print(json.dumps(asyncio.run(asked)))"
    environment = {**os.environ, "HELM_DRIVER": "memory"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["TotalChartsLinted"], found["Errors"]) == (1, None)
    assert {each["Severity"] for each in found["Messages"]} <= {INFO}


@pytest.mark.slow
def test_agents_over_tls_are_given_their_certificates_and_the_cluster_its_volume(tmp_path: Path) -> None:
    tls = {"secret": "hubble-relay-client-certs", "name": "relay.test"}
    agent = {"address": "$(NODE_IP):54321", "tls": {"secret": "tetragon-client", "mutual": False}}
    relay = {"hubbleRelay": "relay:443", "hubbleRelayTls": tls, "storage": "1Gi"}
    values = {"cluster": relay, "collector": {"net": {"tetragon": agent}}}
    found = made(tmp_path, values)
    for peer, container, count in (("hubble", "cluster", 5), ("tetragon", "net", 2)):
        told = next(each for each in containers(found) if each["name"] == container)
        given = {v["name"]: v.get("value") for v in told["env"] if f"_{peer.upper()}_" in v["name"]}
        assert len(given) == count
        assert given[f"WARPLINE_{peer.upper()}_TLS_CA"] == f"/etc/warpline/{peer}/ca.crt"
        assert {"name": f"{peer}-tls", "mountPath": f"/etc/warpline/{peer}", "readOnly": True} in told["volumeMounts"]
    secrets = {v["secret"]["secretName"] for _, spec in pods(found) for v in spec["volumes"] if "secret" in v}
    assert secrets == {"hubble-relay-client-certs", "tetragon-client", "warpline-tokens"}
    claims = [each["metadata"]["name"] for each in objects(found) if each["kind"] == "PersistentVolumeClaim"]
    volumes = [v for name, spec in pods(found) if name.endswith("-cluster") for v in spec["volumes"]]
    assert [v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v] == claims


@pytest.mark.slow
def test_settings_by_name_reach_every_process_and_others_are_refused(tmp_path: Path) -> None:
    chosen = {"correlator_retention_gb": "50", "log_level": "debug"}
    found = made(tmp_path, {"settings": chosen, "dashboard": {"url": "https://w.test", "trustUserHeader": "X-User"}})
    wanted = {f"WARPLINE_{name.upper()}": value for name, value in chosen.items()}
    for container in containers(found):
        names = [v["name"] for v in container["env"]]
        assert len(names) == len(set(names))
        assert wanted.items() <= {v["name"]: v.get("value") for v in container["env"]}.items()
    done = rendered("{'settings': {'correlator_retention_days': '3'}}")
    assert done.returncode != 0
    assert "correlator_retention_days" in done.stderr


@pytest.mark.slow
def test_collectors_alone_send_elsewhere_or_are_refused(tmp_path: Path) -> None:
    done = rendered("{'correlator': {'enabled': False}}")
    assert done.returncode != 0
    assert "collector.endpoint" in done.stderr
    far = {"endpoint": "http://otel-collector:4318", "queryUrl": "http://w:4320"}
    found = made(tmp_path, {"correlator": {"enabled": False}, "collector": far})
    assert {name for name, _ in pods(found)} == {"warpline-collector", "warpline-cluster"}
    for container in containers(found):
        given = {v["name"]: v.get("value") for v in container["env"]}
        assert (given["WARPLINE_COLLECTOR_ENDPOINT"], given["WARPLINE_COLLECTOR_QUERY_URL"]) == tuple(far.values())


@pytest.mark.slow
def test_an_ingress_to_a_dashboard_that_asks_nobody_who_they_are_is_refused() -> None:
    done = rendered("{'dashboard': {'ingress': {'enabled': True}}}")
    assert done.returncode != 0
    assert "authSecret" in done.stderr


def let_in(found: list[Object], component: str, port: int) -> list[Any]:
    """Whom the component's NetworkPolicy lets in at a port: None is everybody."""
    (policy,) = [o for o in found if o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == f"warpline-{component}"]
    rules = [rule for rule in policy["spec"]["ingress"] if {"port": port} in rule["ports"]]
    return [peer for rule in rules for peer in rule.get("from") or [None]]


@pytest.mark.slow
def test_a_policy_without_namespaces_lets_nobody_in_and_pods_go_where_values_say(tmp_path: Path) -> None:
    placed = {"nodeSelector": {"disk": "fast"}, "tolerations": [{"operator": "Exists"}], "priorityClassName": "high"}
    values = {"networkPolicy": {"namespaces": []}, "dashboard": {"trustUserHeader": "X-User", **placed}}
    found = objects(made(tmp_path, {**values, "correlator": placed, "cluster": placed}))
    assert let_in(found, "dashboard", 8501) == let_in(found, "collector", 9464) == []
    (own,) = let_in(found, "correlator", 4320)
    assert own["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "warpline"
    specs = [each["spec"]["template"]["spec"] for each in found if each["kind"] in ("Deployment", "StatefulSet")]
    assert [{name: spec[name] for name in placed} for spec in specs] == [placed] * 3


@pytest.mark.parametrize("size", ["minimal", "full"])
def test_a_dashboard_without_a_login_is_seen_from_the_named_namespaces_alone(size: str) -> None:
    peers = let_in(objects(ROOT / f"deploy/manifests/kubernetes-{size}.yaml"), "dashboard", 8501)
    named = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": n}}} for n in ("monitoring", "keda")]
    assert peers == ([None] if size == "full" else named)


@pytest.mark.slow
def test_helm_refuses_a_value_that_does_not_exist() -> None:
    done = rendered("{'distribution': 'openshift'}")
    assert done.returncode != 0
    assert "distribution" in done.stderr


@pytest.mark.slow
def test_keda_asks_about_what_is_scaled_alone(tmp_path: Path) -> None:
    values = {"keda": {"enabled": True, "model": "org/llama 3", "pool": "decode"}}
    (scaled,) = [each for each in objects(made(tmp_path, values)) if each["kind"] == "ScaledObject"]
    waiting, full = (each["metadata"] for each in scaled["spec"]["triggers"])
    assert waiting["query"] == 'sum(vllm:num_requests_waiting{model_name="org/llama 3"})'
    assert full["url"].endswith("/api/saturation?model=org%2Fllama+3&pool=decode")
