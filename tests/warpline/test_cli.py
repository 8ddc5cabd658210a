import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from warpline import cli, schema, source


def warpline(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "warpline.cli", *arguments], capture_output=True, text=True, check=False
    )


def test_check_lists_every_source_in_one_line_each() -> None:
    answer = warpline("check")
    assert answer.returncode == 0
    assert [line.split()[0] for line in answer.stdout.splitlines()] == source.names()


def test_schema_prints_every_table() -> None:
    answer = warpline("schema")
    assert all(f"\n## {table.name}\n" in answer.stdout for table in schema.TABLES)


def test_a_wrong_setting_ends_with_code_2_and_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPLINE_NODEE", "x")
    answer = warpline("check")
    assert answer.returncode == 2
    assert answer.stderr == "warpline: WARPLINE_NODEE: unknown setting 'nodee'; did you mean 'node'?\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--settings", "/none.toml", "settings"), "/none.toml: no such file or directory; give a readable TOML file"),
        (("incident", "verify", "/none.warpline"), "/none.warpline: no such file or directory; give a whole file that"),
        (
            ("replay", "/proc/self"),
            "/proc/self/manifest.json: no such file or directory; give the directory of a sample",
        ),
    ],
)
def test_a_file_that_is_not_there_is_named_once_and_in_words(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(list(arguments)) in (1, 2)
    assert capsys.readouterr().err.strip().startswith(f"warpline: {said}")


def test_a_dashboard_whose_address_is_taken_names_the_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("WARPLINE_DASHBOARD_ADDRESS", address)
        assert cli.main(["dashboard"]) == 2
    assert f"dashboard_address is '{address}': address already in use; end what" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["a..b:8501", "127.0.0.1:²"])
def test_a_dashboard_whose_address_is_none_names_the_setting(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARPLINE_DASHBOARD_ADDRESS", address)
    assert cli.main(["dashboard"]) == 2
    assert capsys.readouterr().err.startswith(f"warpline: dashboard_address is '{address}': ")


def test_no_subcommand_prints_the_help_and_ends_with_code_2() -> None:
    answer = warpline()
    assert answer.returncode == 2
    assert all(name in answer.stderr for name in cli.COMMANDS)


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_subcommand_explains_itself_and_needs_no_pandas_for_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    answer = warpline(name, "--help")
    assert answer.returncode == 0
    assert cli.COMMANDS[name].split()[0] in answer.stdout
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "warpline.errors" in imported and "pandas._libs" not in imported


def test_a_collector_stands_behind_the_workload_and_carries_no_pandas(tmp_path: Path) -> None:
    flags = {"STATE_DIR": str(tmp_path), "COLLECTOR_SOURCES": "clock", "COLLECTOR_METRICS_ADDRESS": ""}
    flags["COLLECTOR_ENDPOINT"] = "http://127.0.0.1:9"
    environment = {**os.environ, **{f"WARPLINE_{name}": value for name, value in flags.items()}}
    command = [sys.executable, "-m", "warpline.cli", "collect"]
    collector = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert collector.stderr and any("collecting on node" in line for line in collector.stderr)
        assert os.getpriority(os.PRIO_PROCESS, collector.pid) >= 10
        assert "/pandas/" not in Path(f"/proc/{collector.pid}/maps").read_text(encoding="utf-8")
    finally:
        collector.kill()
        collector.communicate()
