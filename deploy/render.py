"""Renders the chart with the real Helm engine, without a cluster: `python deploy/render.py` writes deploy/manifests/ anew.

The engine (helm-sdkpy) has no call that only renders, so it installs, with its release kept in memory, into a loopback HTTP
server that answers as an API server does: what Helm would have applied comes back in the answer. The environment needs
`HELM_DRIVER=memory` before Python starts, or the release is stored as a Secret.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import threading
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from warpline.settings import Settings

HERE = Path(__file__).resolve().parent
CHART = HERE / "helm" / "warpline"
DISTRIBUTIONS = ("kubernetes", "k3s", "microk8s")
MINIMAL: dict[str, Any] = {
    "collector": {"gpu": {"enabled": False}, "net": {"enabled": False}},
    "cluster": {"enabled": False},
}
FULL: dict[str, Any] = {
    "correlator": {"tlsSecret": "warpline-tls"},
    "dashboard": {"authSecret": "warpline-oidc", "ingress": {"enabled": True, "tlsSecret": "warpline-dashboard-tls"}},
    "monitoring": {"podMonitor": True, "prometheusRule": True},
    "keda": {"enabled": True},
}
_KINDS = {
    "v1": ["Service", "ServiceAccount", "Secret", "ConfigMap", "Namespace", "Pod", "PersistentVolumeClaim"],
    "apps/v1": ["DaemonSet", "Deployment", "StatefulSet"],
    "policy/v1": ["PodDisruptionBudget"],
    "networking.k8s.io/v1": ["NetworkPolicy", "Ingress"],
    "rbac.authorization.k8s.io/v1": ["ClusterRole", "ClusterRoleBinding"],
    "monitoring.coreos.com/v1": ["PodMonitor", "PrometheusRule"],
    "keda.sh/v1alpha1": ["ScaledObject", "TriggerAuthentication"],
}


class _ApiServer(BaseHTTPRequestHandler):
    """As much of an API server as Helm asks for: version, discovery, and yes to every object."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        groups = [each for each in _KINDS if "/" in each]
        if path == "version":
            return self._answer({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
        if path == "api":
            return self._answer({"kind": "APIVersions", "versions": ["v1"]})
        if path == "apis":
            return self._answer({"kind": "APIGroupList", "groups": [_group(each) for each in groups]})
        version = path.removeprefix("apis/").removeprefix("api/")
        if version in _KINDS:
            resources = [_resource(kind) for kind in _KINDS[version]]
            return self._answer({"kind": "APIResourceList", "groupVersion": version, "resources": resources})
        return self._answer({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self._answer(json.loads(body) if body[:1] == b"{" else {}, 201)

    do_PATCH = do_PUT = do_POST

    def _answer(self, body: object, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def _group(version: str) -> dict[str, Any]:
    name, number = version.split("/")
    described = {"groupVersion": version, "version": number}
    return {"name": name, "versions": [described], "preferredVersion": described}


def _resource(kind: str) -> dict[str, Any]:
    plural = kind.lower() + ("ies" if kind.endswith("y") else "s")
    plural = plural.replace("policyies", "policies").replace("ingresss", "ingresses")
    namespaced = kind not in ("ClusterRole", "ClusterRoleBinding", "Namespace")
    verbs = ["create", "get", "list", "patch", "update", "delete", "watch"]
    return {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": verbs}


def render(values: dict[str, Any]) -> str:
    """Return the manifest that the chart makes of `values`, as Helm applies it; raise what Helm raises."""
    if os.environ.get("HELM_DRIVER") != "memory":
        raise SystemExit("render: HELM_DRIVER is not memory; run HELM_DRIVER=memory python deploy/render.py")
    import helm_sdkpy

    server = ThreadingHTTPServer(("127.0.0.1", 0), _ApiServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as kubeconfig:
            kubeconfig.write(_kubeconfig(server.server_address[1]))
            kubeconfig.flush()
            configuration = helm_sdkpy.Configuration(namespace="warpline", kubeconfig=kubeconfig.name)
            install = helm_sdkpy.Install(configuration)
            answer = asyncio.run(install.run("warpline", str(CHART), values=values, wait=False, timeout=30))
    finally:
        server.shutdown()
        server.server_close()
    return str(answer["manifest"])


def _kubeconfig(port: int) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "none", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
            "users": [{"name": "none", "user": {}}],
            "current-context": "none",
        }
    )


def cases() -> dict[str, dict[str, Any]]:
    """Return the values of every rendered manifest that the project keeps, by its name."""
    sizes = {"minimal": MINIMAL, "full": FULL}
    found = {f"{d}-{size}": {"distribution": d, **v} for d in DISTRIBUTIONS for size, v in sizes.items()}
    edge = yaml.safe_load((CHART / "values-edge.yaml").read_text(encoding="utf-8"))
    return found | {f"{d}-edge": {**edge, "distribution": d} for d in ("k3s", "microk8s")}


def by_name() -> list[str]:
    """Return the settings that no value of the chart stands for: those that `settings` may hold."""
    texts = "".join(path.read_text(encoding="utf-8") for path in (CHART / "templates").iterdir())
    given = {name.lower() for name in re.findall(r"WARPLINE_([A-Z_]+)\b", texts)} | {"collector_scope"}  # a flag there
    ends = [end.lower() for end in re.findall(r"WARPLINE_\{\{ upper \.peer \}\}_([A-Z_]+)", texts)]
    given |= {f"{peer}_{end}" for peer in ("hubble", "tetragon") for end in ends}
    return [each.name for each in fields(Settings) if each.name not in given]


def main() -> int:
    """Write every manifest anew, and into the schema which settings may be given by name."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    schema["properties"]["settings"]["propertyNames"]["enum"] = by_name()
    (CHART / "values.schema.json").write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
    folder = HERE / "manifests"
    for name, values in cases().items():
        (folder / f"{name}.yaml").write_text(f"# Written by deploy/render.py; do not edit.\n{render(values).strip()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
