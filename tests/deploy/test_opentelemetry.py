"""The OpenTelemetry Collector's configurations: whole, and speaking to doors that the chart opens, as large as they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from warpline.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
EACH = pytest.mark.parametrize(
    "path", sorted((ROOT / "deploy/opentelemetry-collector").glob("*.yaml")), ids=lambda path: path.stem
)


def read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


@EACH
def test_every_pipeline_is_made_of_parts_that_are_declared_and_none_is_left_over(path: Path) -> None:
    found = read(path)
    pipelines = found["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines for name in pipeline.get(kind, [])}
        assert used == set(found.get(kind, {})), kind
    assert set(found["service"].get("extensions", [])) == set(found.get("extensions", {}))


@EACH
def test_it_sends_to_a_door_of_the_chart_and_shows_a_token(path: Path) -> None:
    objects = yaml.safe_load_all((ROOT / "deploy/manifests/kubernetes-minimal.yaml").read_text(encoding="utf-8"))
    services = {
        each["metadata"]["name"]: each["spec"]["ports"] for each in objects if each and each["kind"] == "Service"
    }
    exporter = read(path)["exporters"]["otlphttp/warpline"]
    host, _, port = exporter["endpoint"].removeprefix("http://").partition(":")
    assert int(port) in {each["port"] for each in services[host] if each["name"] == "otlp-http"}
    assert exporter["headers"]["authorization"].startswith("Bearer ")


@EACH
def test_what_it_receives_of_warplines_batches_is_as_large_as_the_doors_take_and_goes_through_whole(path: Path) -> None:
    found = read(path)
    if "logs" not in found["service"]["pipelines"]:
        pytest.skip("no batches of Warpline's go this way")
    protocols = found["receivers"]["otlp"]["protocols"]
    limit_mb = Settings().correlator_max_request_mb
    assert protocols["http"]["max_request_body_size"] == limit_mb << 20
    assert protocols["grpc"]["max_recv_msg_size_mib"] == limit_mb
    logs = found["service"]["pipelines"]["logs"]
    assert not logs.get("processors") and logs["exporters"] == ["otlphttp/warpline"]
