"""A rule with two homes fires in both on the same recorded incident: built in, on rows; in Prometheus, on what was exported.

The recording's rows go back to the pages that they were read from, once a second, and promtool evaluates the shipped rules.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from collectors.wire.gpu_fields import meaning
from tests import rule_table
from tests.correlator import alert_chain
from warpline import sample

SECOND = 1_000_000_000
_AFTER_S = 90
"""Time after a recording in which a condition that held in it may still have to last."""
TWINS = {
    each["labels"]["rule"]: each["alert"]
    for group in yaml.safe_load(alert_chain.RULES.read_text(encoding="utf-8"))["groups"]
    for each in group["rules"]
    if each["alert"] != "GpuSaturationUnknown"
}
NOT_RECORDED = {
    "collector_silent": "whether Prometheus' scrape of a collector was answered is in no recording",
    "tpot_objective": "the pages of the model server's double have no histogram of times per token",
}
ENGINE = {
    ("requests.waiting", "value"): "vllm:num_requests_waiting",
    ("kv.used", "value"): "vllm:kv_cache_usage_perc",
    ("preemptions", "value"): "vllm:num_preemptions_total",
    ("requests.finished", "value"): "vllm:request_success_total",
    ("ttft", "bucket"): "vllm:time_to_first_token_seconds_bucket",
    ("ttft", "count"): "vllm:time_to_first_token_seconds_count",
}
OWN = {"warpline.source.up": "warpline_source_up", "warpline.source.lost": "warpline_source_lost_total"}
CASES = [
    (case.name, rule)
    for case in rule_table.incidents()
    for rule in rule_table.incident(case).fires
    if rule in TWINS.keys() - NOT_RECORDED.keys()
]
Sample = tuple[str, int, float]
"""A series as a page has it, when it was read (ns), and its value."""


def rows(case: Path, table: str) -> list[dict[str, Any]]:
    path = case / f"{table}.parquet"
    return list(pq.read_table(path).to_pylist()) if path.exists() else []


def series(name: str, **labels: object) -> str:
    told = ",".join(f'{key}="{value}"' for key, value in labels.items() if value is not None)
    return f"{name}{{{told}}}"


def read(case: Path) -> Iterator[Sample]:
    """What exporters, engines and collectors said in an incident."""
    for row in rows(case, "gpu_sample"):
        name = series(row["field"], gpu=row["index"], Hostname=row["node"], GPU_I_ID=row["gpu_instance"])
        yield name, row["time_ns"], row["value"] / meaning(row["field"])[1].factor
    for row in rows(case, "engine_sample"):
        told = ENGINE.get((row["metric"], row["statistic"]))
        if told:
            bound = row["upper_bound"]
            le = None if bound is None else "+Inf" if math.isinf(bound) else f"{bound:g}"
            yield series(told, instance=row["target"], model_name=row["model"], le=le), row["time_ns"], row["value"]
    for row in rows(case, "metric_point"):
        if row["name"] in OWN:
            labels = {"instance": row["node"], **json.loads(row["attributes"] or "{}")}
            value = row["value"] if row["value"] is not None else row["whole_value"]
            yield series(OWN[row["name"]], **labels), row["time_ns"], float(value)


def scraped(case: Path) -> tuple[list[dict[str, str]], int]:
    """The incident as promtool's input, one value a second, and its length in seconds; a page stands until the next."""
    found = sample.load(case)
    length = (found.end_ns - found.start_ns) // SECOND + 1
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for name, time_ns, value in sorted(read(case), key=lambda each: each[1]):
        values[name][max(0, (time_ns - found.start_ns) // SECOND)] = value
    told = []
    for name, each in values.items():
        last, line = "_", []
        for second in range(length):
            last = repr(float(each[second])) if second in each else last
            line.append(last)
        told.append({"series": name, "values": " ".join(line)})
    return told, length


def outcome(case: Path, alerts: list[str], tmp_path: Path, promtool: str) -> set[str]:
    """Which of `alerts` fire on an incident: promtool says of each what it expected and what there was."""
    told, length = scraped(case)
    shutil.copy(alert_chain.RULES, tmp_path / "rules.yaml")
    end = f"{length + _AFTER_S}s"
    fired = 'max(max_over_time(ALERTS{{alertname="{}",alertstate="firing"}}[30m]))'
    tests = [{"expr": fired.format(name), "eval_time": end, "exp_samples": []} for name in alerts]
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1s",
        "tests": [{"interval": "1s", "input_series": told, "promql_expr_test": tests}],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test, width=10**9), encoding="utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    found = set(re.findall(r'alertname=\\?"(\w+)\\?"', said))
    assert bool(found) == bool(done.returncode) and found <= set(alerts), said
    return found


@pytest.mark.parametrize(("case", "rule"), CASES)
def test_both_homes_of_a_rule_fire_on_the_incident_that_it_is_about(
    case: str, rule: str, tmp_path: Path, promtool: str
) -> None:
    directory = rule_table.SAMPLES / case
    assert rule in rule_table.fired(directory)
    assert outcome(directory, [TWINS[rule]], tmp_path, promtool) == {TWINS[rule]}


def test_neither_home_fires_on_the_healthy_recording(tmp_path: Path, promtool: str) -> None:
    healthy = rule_table.SAMPLES / "healthy"
    assert rule_table.fired(healthy) == {}
    alerts = sorted(name for rule, name in TWINS.items() if rule not in NOT_RECORDED)
    assert outcome(healthy, alerts, tmp_path, promtool) == set()


def test_every_rule_of_two_homes_is_tried_on_an_incident_or_has_a_reason() -> None:
    assert {rule for _, rule in CASES} | NOT_RECORDED.keys() == TWINS.keys()
