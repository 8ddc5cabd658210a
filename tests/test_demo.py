"""The main job, whole: real clients, a real server, the Linux kernel, collector, OTLP, store, dashboard."""

import os
import re
import subprocess
import sys

import psutil
import pytest

from collectors.bpf import loader


@pytest.mark.needs_bpf
@pytest.mark.slow
def test_the_demo_finds_every_request_that_it_sent_and_leaves_nothing_running() -> None:
    reason = loader.why_not()
    if reason:
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, "-m", "warpline.cli", "demo", "--seconds", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"(\d+) requests sent, (\d+) found, slowest \d+ ms: http://\S+", done.stdout)
    assert [pair for pair in found if pair in (("23", "23"), ("997", "997"))] == [("23", "23"), ("997", "997")]
    commands = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    assert not [c for c in commands if "warpline-demo-" in c]


@pytest.mark.slow
def test_where_bpf_cannot_run_the_demo_says_why_and_replays_a_sample_trace() -> None:
    drop = ["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin", "--inh-caps=-bpf,-perfmon,-sys_admin"]
    if os.geteuid() != 0:
        drop = []  # Without root BPF cannot run anyway.
    done = subprocess.run(
        [*drop, sys.executable, "-m", "warpline.cli", "demo", "--seconds", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BPF cannot run here: " in done.stdout
    assert "replaying the sample trace" in done.stdout
