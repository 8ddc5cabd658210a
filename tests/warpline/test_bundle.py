import hashlib
import json
import random
import re
import shutil
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from correlator.alerting import backtest
from tests import golden
from warpline import bundle, sample, schema
from warpline.cli import main
from warpline.commands.incident import window
from warpline.errors import SettingsError, SourceError
from warpline.pseudonyms import Pseudonyms
from warpline.settings import Settings

START = 1_790_000_000_000_000_000


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    kernel, loss = schema.table("gpu_kernel"), schema.table("loss")
    times = list(range(START, START + 997))
    rows = {
        "gpu_kernel": kernel.batch({"start_ns": times, "node": "n1", "kind": "kernel", "process_uid": "n1:5:7"}),
        "loss": loss.batch(
            {"start_ns": times[:23], "node": "n1", "source": "tcp", "reason": "ring overrun", "lost": 1}
        ),
    }
    sample.write(
        tmp_path / "long_prefill", {name: pa.Table.from_batches([each]) for name, each in rows.items()}, "about"
    )
    return tmp_path / "long_prefill"


@pytest.fixture
def file(trace: Path, tmp_path: Path) -> Path:
    bundle.pack(trace, tmp_path / "a.warpline", '[{"name": "gpu_xid"}]')
    return tmp_path / "a.warpline"


def test_a_bundle_opens_with_what_was_packed(file: Path, trace: Path, tmp_path: Path) -> None:
    report = bundle.unpack(file, tmp_path / "out")
    assert report.damaged == {}
    assert report.manifest.rows == {"gpu_kernel": 997, "loss": 23}
    for name in report.manifest.rows:
        assert (tmp_path / f"out/{name}.parquet").read_bytes() == (trace / f"{name}.parquet").read_bytes()


def test_the_same_trace_makes_the_same_content(trace: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    bundle.pack(trace, tmp_path / "b.warpline")
    bundle.unpack(tmp_path / "b.warpline", tmp_path / "one", shares.append)
    bundle.unpack(tmp_path / "b.warpline", tmp_path / "two")
    assert shares == sorted(shares)
    assert [p.read_bytes() for p in sorted((tmp_path / "one").iterdir())] == [
        p.read_bytes() for p in sorted((tmp_path / "two").iterdir())
    ]


def test_a_damaged_table_is_named_with_its_rows_and_the_rest_opens(file: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        at = archive.getinfo("loss.parquet").header_offset + 200
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(data)
    report = bundle.unpack(file, tmp_path / "out")
    assert list(report.damaged) == ["loss"]
    assert report.lost_rows == 23
    assert sample.load(tmp_path / "out").rows == {"gpu_kernel": 997}


def test_rules_that_are_damaged_are_said_and_the_rows_open(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warpline.log.start", lambda level: None)
    assert main(["incident", "verify", str(file)]) == 0
    data = file.read_bytes()
    file.write_bytes(data.replace(b"gpu_xid", b"gpu_xie"))
    report = bundle.unpack(file, tmp_path / "out")
    assert (list(report.damaged), report.lost_rows) == ([bundle.RULES], 0)
    assert sample.load(tmp_path / "out").rows == {"gpu_kernel": 997, "loss": 23}
    assert main(["incident", "verify", str(file)]) == 1
    assert "the alert rules that were in force are lost: Bad CRC-32" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [0, 2, 100, 0.5, 0.99])
def test_a_bundle_that_is_cut_short_is_refused(file: Path, tmp_path: Path, kept: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(kept if kept > 1 or not kept else kept * len(data))])
    with pytest.raises(SourceError, match=r"a\.warpline"):
        bundle.unpack(file, tmp_path / "out")


def test_a_foreign_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(SourceError, match="no incident bundle"):
        bundle.unpack(tmp_path / "b.zip", tmp_path / "out")


def test_a_bundle_of_a_later_version_is_refused(trace: Path, tmp_path: Path) -> None:
    manifest = json.loads((trace / "manifest.json").read_text())
    (trace / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(SourceError, match="version 99"):
        bundle.pack(trace, tmp_path / "c.warpline")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"version": 99}, "warpline-sample-trace version 99"),
        ({"schema_version": schema.VERSION + 1}, f"schema version {schema.VERSION + 1}"),
    ],
)
def test_a_bundle_that_a_later_warpline_wrote_is_refused_with_what_is_newer(
    file: Path, tmp_path: Path, changed: dict[str, int], said: str
) -> None:
    """As a later one would write it: whole, its checksums right."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / "later.warpline", "w") as later:
        manifest = json.dumps(json.loads(old.read("manifest.json")) | changed).encode()
        sums = json.loads(old.read(bundle.CHECKSUMS)) | {"manifest.json": hashlib.sha256(manifest).hexdigest()}
        later.writestr("manifest.json", manifest)
        later.writestr(bundle.CHECKSUMS, json.dumps(sums))
        for name in ("gpu_kernel.parquet", "loss.parquet"):
            later.writestr(name, old.read(name))
    with pytest.raises(SourceError, match=said):
        bundle.unpack(tmp_path / "later.warpline", tmp_path / "out")
    assert main(["incident", "verify", str(tmp_path / "later.warpline")]) == 1


def test_a_bundle_of_an_older_version_opens_with_what_is_lost_named_and_is_correlated_anew(tmp_path: Path) -> None:
    """As an older Warpline would have written it: a table that is gone since, a column that was not there yet."""
    old, now = tmp_path / "old", sample.load(golden.SAMPLES / "streaming_server")
    shutil.copytree(golden.SAMPLES / "streaming_server", old)
    exchanges = pq.read_table(old / "http_exchange.parquet")
    pq.write_table(exchanges.drop_columns(["protocol"]), old / "http_exchange.parquet")
    pq.write_table(pa.table({"time_ns": [now.start_ns]}), old / "gone_since.parquet")
    manifest = json.loads((old / "manifest.json").read_text())
    changed = {"schema_version": 0, "made_by": "warpline 0.0", "rows": manifest["rows"] | {"gone_since": 1}}
    (old / "manifest.json").write_text(json.dumps(manifest | changed))
    bundle.pack(old, tmp_path / "old.warpline")
    report = bundle.unpack(tmp_path / "old.warpline", tmp_path / "opened")
    assert list(report.damaged) == ["gone_since"] and report.lost_rows == 1
    counts = []
    for directory in (tmp_path / "opened", golden.SAMPLES / "streaming_server"):
        with backtest.opened(directory, Settings(correlator_memory_limit_mb=256)) as (store, _):
            found = store.query("SELECT count(*) AS n, count(DISTINCT attempt_uid) AS attempts FROM request")
            counts.append(found.to_pylist()[0])
    assert counts[0] == counts[1] and counts[0]["n"] > 20


def test_random_damage_never_raises_anything_but_a_sentence(file: Path, tmp_path: Path) -> None:
    chance = random.Random(23)
    whole = file.read_bytes()
    for number in range(150):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        file.write_bytes(data)
        try:
            report = bundle.unpack(file, tmp_path / str(number))
        except SourceError:
            continue
        assert set(report.damaged) <= {*report.manifest.rows, bundle.RULES}


def test_pseudonyms_hide_names_and_keep_what_joins() -> None:
    kernel = schema.table("gpu_kernel")
    rows = kernel.batch(
        {"start_ns": [1, 2], "node": ["n1", "n2"], "kind": "kernel", "process_uid": ["n1:5:7", "n2:6:8"]}
    )
    found = Pseudonyms().renamed(kernel, pa.Table.from_batches([rows])).to_pylist()
    assert {row["node"] for row in found}.isdisjoint({"n1", "n2"})
    assert [row["process_uid"] for row in found] == [
        f"{row['node']}:{rest}" for row, rest in zip(found, ("5:7", "6:8"), strict=True)
    ]
    assert [row["kind"] for row in found] == ["kernel", "kernel"]


def test_of_a_place_the_name_is_hidden_and_the_address_and_the_port_are_kept() -> None:
    sample_table = schema.table("engine_sample")
    targets = ["10.0.0.9:8000", "[fd00::2]:8000/x", "engine-1.ml:8000", "ml/engine-1"]
    row = {"time_ns": 1, "engine": "vllm", "metric": "kv.used", "statistic": "value", "value": 1.0}
    rows = sample_table.batch(row | {"target": targets}, rows=len(targets))
    names = Pseudonyms()
    found = names.renamed(sample_table, pa.Table.from_batches([rows]))["target"].to_pylist()
    assert found[:3] == [*targets[:2], f"{names.of('engine-1.ml')}:8000"] and names.of("ml/engine-1").count("/") == 1


def test_of_a_service_its_revision_and_what_it_scales_are_hidden_and_what_kind_that_is_is_kept() -> None:
    state = schema.table("service_state")
    row = {"time_ns": 1, "kind": "ScaledObject", "target": ["Deployment/chat-predictor", None]}
    rows = state.batch(row | {"object": "chat-predictor", "revision": ["chat-00001", "128"]}, rows=2)
    names = Pseudonyms()
    found = names.renamed(state, pa.Table.from_batches([rows])).to_pylist()
    assert [each["target"] for each in found] == [f"Deployment/{found[0]['object']}", None]
    assert [each["revision"] for each in found] == [names.of("chat-00001"), "128"], "a generation is a number, no name"


@pytest.mark.parametrize("case", ["cold_start", "policy_drops", "model_server_double"])
def test_no_name_is_left_anywhere_in_a_bundle_with_pseudonyms_and_the_same_rules_fire(
    case: str, tmp_path: Path
) -> None:
    whole = golden.SAMPLES / case
    found, names, hidden, tables = sample.load(whole), Pseudonyms(), set[str](), []
    writer = sample.Writer(tmp_path / "hidden")
    for name in found.rows:
        rows, table = pa.Table.from_batches([each.rows for each in sample.rows_of(whole, name)]), schema.table(name)
        for column in ("node", "pod", "namespace", "object", "proxy", "service", "destination_pod"):
            hidden.update(filter(None, rows[column].to_pylist()) if column in rows.column_names else ())
        writer.add(table, [names.renamed(table, rows)])
        tables.append(table)
    names.tell(tmp_path / "hidden", tables)
    writer.finish("hidden")
    hidden = {part for name in hidden for part in name.split("/")}
    assert hidden
    spelled = re.compile(f"(?<![A-Za-z0-9])({'|'.join(map(re.escape, hidden))})(?![A-Za-z0-9])")
    for name in found.rows:
        rows = pa.Table.from_batches([each.rows for each in sample.rows_of(tmp_path / "hidden", name)])
        assert rows.num_rows == found.rows[name]
        for column in rows.column_names:
            if column not in ("observed_by", "engine", "source", "metric", "name", "executable"):  # Names of programs.
                texts = [text for text in rows[column].to_pylist() if isinstance(text, str)]
                assert not [text for text in texts if spelled.search(_values(text))], (name, column)
    fired = []
    for directory in (whole, tmp_path / "hidden"):
        with backtest.opened(directory, Settings(correlator_memory_limit_mb=256)) as (store, seen):
            rules = backtest.chosen(["cold_start_slow", "path_drops", "source_down", "gpu_idle_while_waiting"])
            thresholds = {"cold_start_slow.most_s": 10.0}
            firings = backtest.run(rules, store, (seen.start_ns, seen.end_ns), thresholds)[0]
            fired.append([(each.rule, each.start_ns, each.end_ns) for each in firings])
    assert fired[0] == fired[1]


def _values(text: str) -> str:
    """What a text says, without the keys of JSON."""
    try:
        said = json.loads(text)
    except ValueError:
        return text
    return " ".join(map(str, said.values())) if isinstance(said, dict) else text


def test_a_window_is_read_as_a_person_writes_it() -> None:
    now = 1_795_550_400_000_000_000  # 2026-11-24T20:00:00Z
    minute = 60_000_000_000
    assert window("now", "10m", now) == (now - 10 * minute, now)
    assert window("19:30", "10m", now) == (now - 35 * minute, now - 25 * minute)
    assert window("2026-11-24T19:30:00", "60s", now) == (
        now - 30 * minute - minute // 2,
        now - 30 * minute + minute // 2,
    )
    for wrong in (("noon", "10m"), ("now", "ten")):
        with pytest.raises(SettingsError, match="incident: --"):
            window(*wrong, now)
