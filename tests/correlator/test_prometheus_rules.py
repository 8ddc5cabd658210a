import re
import subprocess
from pathlib import Path

from correlator.alerting import alert_rule


def test_every_prometheus_rule_passes_its_unit_tests(promtool: str, root: Path) -> None:
    folder = root / "deploy/prometheus"
    checked = subprocess.run(
        [promtool, "check", "rules", "warpline-rules.yaml"], cwd=folder, capture_output=True, check=False
    )
    tested = subprocess.run(
        [promtool, "test", "rules", "warpline-rules.test.yaml"], cwd=folder, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_prometheus_rule_has_a_test_and_names_its_built_in_twin(root: Path) -> None:
    folder = root / "deploy/prometheus"
    rules = (folder / "warpline-rules.yaml").read_text()
    tests = (folder / "warpline-rules.test.yaml").read_text()
    built_in = {rule.name for rule in alert_rule.load()}
    names = re.findall(r"- alert: (\w+)", rules)
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"alertname: {name}\n\s+exp_alerts:\n", tests)] == []
    assert set(re.findall(r"rule: (\w+)", rules)) <= built_in
