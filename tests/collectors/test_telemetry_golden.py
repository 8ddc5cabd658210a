"""The real recordings still read as they did when a person last looked."""

from __future__ import annotations

import json
from pathlib import Path

from tests.collectors import telemetry_golden


def test_every_recording_reads_as_it_did(shared_data: Path) -> None:
    found = json.loads(json.dumps(telemetry_golden.profiles(shared_data)))
    golden = json.loads(telemetry_golden.GOLDEN.read_text())
    assert found.keys() == golden.keys()
    for name, told in golden.items():
        assert found[name] == told, f"{name}: see python -m {telemetry_golden.__name__}"
