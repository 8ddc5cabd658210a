"""What differs between a request and its peers: simulated incidents, each with the sentence that must come out, or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from correlator.explain import Explanation, as_json, explain, lines
from correlator.joins.stages import Joins
from correlator.storage.store import Store
from tests.correlator.served import BASE, Place, Served, stored
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

PODS = [Place(f"n{n}", f"pod-{n}") for n in range(4)]


def explained(store: Store, number: int) -> Explanation:
    return explain(lambda name, **asked: store.view(name, asked).read_all(), f"cmpl-{number}")


def told_of(state_dir: Path, served: list[Served], *numbers: int) -> Iterator[Explanation]:
    """What is told of the requests with these numbers, where all of `served` are stored."""
    with closing(stored(state_dir, served)) as store:
        yield from [explained(store, number) for number in numbers]


def groups(found: Explanation) -> list[str]:
    """The sentences that compare those that had its pod, its GPU, its model."""
    return [cause.sentence for cause in found.differs if cause.sentence.startswith("requests ")]


def turns(places: list[Place], each: int, **slow: float) -> list[Served]:
    """`each` requests of each place in turn, ten a second, of 100 to 109 ms; of the places named, as many times as long."""
    return [
        Served(place, (turn * len(places) + n) * 100, (100 + turn % 10) * slow.get(f"at{n}", 1.0))
        for turn in range(each)
        for n, place in enumerate(places)
    ]


def test_a_slow_pod_is_told_with_its_gpu_once_and_with_both_medians(tmp_path: Path) -> None:
    (found,) = told_of(tmp_path, turns(PODS, 30, at2=3), 4 * 19 + 2)
    assert groups(found) == [
        "requests served by pod ml/pod-2 (GPU 0 of n2) took 3 times as long as those of the other 3 pods of its model,"
        " within 7.8 s of it: median 312 ms of 29 against 104 ms of 90"
    ]
    (told,) = [cause for cause in found.differs if cause.sentence in groups(found)]
    assert (told.evidence, told.confidence) == ("estimated", 0.9999)
    assert told.ns == 312_000_000 - 104_500_000
    assert told.method == "Mann-Whitney test, z = 8.1, of 18 comparisons"
    assert not any("because" in c.sentence or "caused" in c.sentence for c in found.differs)


def test_of_a_healthy_fleet_nothing_is_told_of_any_request(tmp_path: Path) -> None:
    found = told_of(tmp_path, turns(PODS, 12), *range(48))
    assert [each.differs for each in found] == [[]] * 48


def test_a_slow_gpu_of_a_pod_is_told_and_not_its_pod_again(tmp_path: Path) -> None:
    places = [Place(f"n{n // 2}", f"pod-{n // 2}", n % 2) for n in range(4)]
    found, healthy = told_of(tmp_path, turns(places, 30, at3=3), 4 * 19 + 3, 4 * 19 + 2)
    assert groups(found) == [
        "requests served by GPU 1 of n1 took 3 times as long as those of the other GPU of its pod, within 7.9 s of it:"
        " median 312 ms of 29 against 104 ms of 30"
    ]
    assert groups(healthy) == []


def test_a_pod_that_is_slow_on_all_of_its_gpus_is_told_as_the_pod(tmp_path: Path) -> None:
    places = [Place(f"n{n // 2}", f"pod-{n // 2}", n % 2) for n in range(4)]
    (found,) = told_of(tmp_path, turns(places, 30, at2=3, at3=3), 4 * 19 + 3)
    assert groups(found) == [
        "requests served by pod ml/pod-1 took 3 times as long as those of the other pod of its model, within 7.9 s of it:"
        " median 312 ms of 59 against 104 ms of 60"
    ]


def test_of_two_pods_on_one_gpu_the_slow_one_is_told_and_where_both_are_their_gpu(tmp_path: Path) -> None:
    places = [Place("n0", "pod-a", 0), Place("n0", "pod-b", 0), Place("n0", "pod-c", 1), Place("n0", "pod-d", 1)]
    (one,) = told_of(tmp_path / "one", turns(places, 30, at0=3), 4 * 19)
    (both,) = told_of(tmp_path / "both", turns(places, 30, at0=3, at1=3), 4 * 19)
    assert [text.split(", within")[0] for text in groups(one)] == [
        "requests served by pod ml/pod-a took 3 times as long as those of the other pod on its GPU"
    ]
    assert [text.split(", within")[0] for text in groups(both)] == [
        "requests served by GPU 0 of n0 took 3 times as long as those of the other GPU of its model"
    ]


def test_a_slow_model_is_told_and_not_its_only_pod(tmp_path: Path) -> None:
    places = [Place("n0", "pod-0"), Place("n1", "pod-1", model="mixtral")]
    (found,) = told_of(tmp_path, turns(places, 30, at1=3), 2 * 19 + 1)
    assert groups(found) == [
        "requests for model mixtral took 3 times as long as those of the other model of its path, within 3.9 s of it:"
        " median 312 ms of 29 against 104 ms of 30"
    ]


def test_where_engines_do_not_say_the_model_that_of_their_address_counts(tmp_path: Path) -> None:
    places = [Place("n0", "pod-0", model=""), Place("n1", "pod-1", model="")]
    store = stored(tmp_path, turns(places, 30, at1=3))
    told = {"time_ns": BASE, "engine": "vllm", "metric": "requests.waiting", "statistic": "value", "value": 0.0}
    where = {"target": [f"{place.address}:8000" for place in places], "model": ["llama", "mixtral"], "monotonic": False}
    store.write([Batch(schema.table("engine_sample"), schema.table("engine_sample").batch(told | where), "told")])
    (text,) = groups(explained(store, 2 * 19 + 1))
    store.close()
    assert (
        text.split(", within")[0]
        == "requests for model mixtral took 3 times as long as those of the other model of its path"
    )


def test_nothing_is_told_of_nine_requests_however_slow(tmp_path: Path) -> None:
    (found,) = told_of(tmp_path, turns(PODS, 10, at2=9), 4 * 5 + 2)  # The request itself is the tenth.
    assert groups(found) == []


def test_times_that_are_all_equal_differ_by_nothing(tmp_path: Path) -> None:
    store = stored(tmp_path, [Served(PODS[n % 2], n * 50, 100) for n in range(40)])
    rows = compared(store, 7)
    found = explained(store, 7)
    store.close()
    assert found.differs == []
    assert {row["z"] for row in rows if row["measure"] == "duration_ns"} == {None}


def test_longer_answers_are_told_beside_the_longer_time(tmp_path: Path) -> None:
    longer = [
        Served(PODS[n % 2], n * 100, (30 if n % 2 else 10) * (10 + n // 2 % 10), 10, output=30 if n % 2 else 10)
        for n in range(60)
    ]
    (found,) = told_of(tmp_path, longer, 2 * 19 + 1)
    (text,) = groups(found)
    assert "took 2.9 times as long as those of the other pod of its model" in text
    assert text.endswith("; their answers were longer, too: median 30 tokens against 10")


def test_a_heavy_tail_alone_tells_pods_and_gpus_apart_for_no_request(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    drawn = np.exp(random.normal(np.log(200), 1.2, 120))
    served = [Served(PODS[int(random.integers(4))], n * 100, float(x)) for n, x in enumerate(drawn)]
    assert [text for found in told_of(tmp_path, served, *range(0, 120, 4)) for text in groups(found)] == []


def test_where_there_are_no_pods_processes_are_told(tmp_path: Path) -> None:
    places = [Place(f"n{n}", "") for n in range(2)]
    (found,) = told_of(tmp_path, turns(places, 30, at1=3), 2 * 19 + 1)
    (text,) = groups(found)
    assert text.startswith(
        f"requests served by process {places[1].engine.split(':')[-1]} on n1 (GPU 0 of n1) took 3 times"
    )


def test_the_pod_of_a_slow_prefill_is_told_apart_from_that_of_the_decode(tmp_path: Path) -> None:
    decode = [Place(f"d{n}", f"decode-{n}", role="decode") for n in range(2)]
    prefill = [Place(f"p{n}", f"prefill-{n}", role="prefill") for n in range(2)]
    crossed = [
        Served(decode[n % 2], n * 100, (100 + n // 4 % 10) * (3 if n // 2 % 2 else 1), prefilled_by=prefill[n // 2 % 2])
        for n in range(120)
    ]
    (found,) = told_of(tmp_path, crossed, 4 * 19 + 2)
    (text,) = groups(found)
    assert text == (
        "requests whose prefill was in pod ml/prefill-1 took 3 times as long as those of the other pod of its model,"
        " within 7.8 s of it: median 312 ms of 59 against 104 ms of 60"
    )


def test_larger_batches_than_its_peers_had_and_its_energy_per_token_are_told(tmp_path: Path) -> None:
    one = [
        Served(PODS[0], n * 1000, 100, batch=12 if n == 20 else 1 + n % 3, watts=900 if n == 20 else 300)
        for n in range(40)
    ]
    (found,) = told_of(tmp_path, one, 20)
    assert [(cause.sentence, cause.evidence, cause.ns) for cause in found.differs] == [
        (
            "its decode steps had 12 requests on average; those of half of 39 peers had 2 or fewer, of 95 of 100 3 or fewer",
            "exact",
            0,
        )
    ]
    assert (found.spent.token_j, found.spent.peers) == (pytest.approx((1 + 5 / 12) * 0.9 / 11), 39)
    assert found.spent.peers_token_j == pytest.approx((1 + 5 / 2) * 0.3 / 11)
    assert as_json(found)["token_j"] == found.spent.token_j
    text = lines(found)
    assert text[2] == "1.42 ms of GPU time was its own, 23.6% of that of its steps"
    assert (
        text[3] == "1.27 J of the GPUs' energy went to it, 0.116 J per output token; the median of 39 peers is 0.0955 J"
    )


def test_a_time_and_the_tokens_that_it_is_of_are_one_sentence(tmp_path: Path) -> None:
    one = [
        Served(PODS[0], n * 1000, 1000 if n == 20 else 100 + n % 5, prompt=900 if n == 20 else 100) for n in range(40)
    ]
    (found,) = told_of(tmp_path, one, 20)
    assert [cause.sentence for cause in found.differs] == [
        "its time per output token is 90 ms; half of 39 peers have 9.18 ms or less, 95 of 100 9.36 ms or less",
        "its prefill is 100 ms; half of 39 peers have 10.2 ms or less, 95 of 100 10.4 ms or less;"
        " its prompt has 900 tokens; half of 39 peers have 100 or fewer, 95 of 100 100 or fewer",
    ]


def test_of_a_request_without_an_engine_its_whole_time_is_told(tmp_path: Path) -> None:
    http = {"node": "n0", "side": "server", "method": "POST", "path": "/v1/completions", "status": 200, "ordinal": 0}
    times = [10**18 + n * 10**9 for n in range(20)]
    rows = {
        **http,
        "start_ns": times,
        "end_ns": [at + (900 if n == 4 else 100) * 10**6 for n, at in enumerate(times)],
        "connection_id": list(range(20)),
        "response_id": [f"cmpl-{n}" for n in range(20)],
    }
    store = Store(Settings(state_dir=str(tmp_path), correlator_disk_reserve_mb=0))
    store.write([Batch(schema.table("http_exchange"), schema.table("http_exchange").batch(rows), "all")])
    Joins(store.settings, store).rebuild()
    told = [(cause.sentence, cause.ns) for cause in explained(store, 4).differs]
    store.close()
    text = "its time at its server is 900 ms; half of 19 peers have 100 ms or less"
    assert told == [(f"{text}, 95 of 100 100 ms or less", 800_000_000)]


def compared(store: Store, number: int) -> list[dict[str, Any]]:
    (row,) = store.view("request_found", {"id": f"cmpl-{number}"}).read_all().to_pylist()
    window = {
        "since_ns": row["start_ns"] - 10**12,
        "begun_ns": row["start_ns"] + 10**12,
        "until_ns": row["end_ns"] + 10**12,
    }
    found: list[dict[str, Any]] = (
        store.view("request_peer", {"request_uid": row["request_uid"], **window}).read_all().to_pylist()
    )
    return found


def test_the_rank_test_is_that_of_counting_all_pairs_with_ties(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    lengths = random.integers(100, 112, 60) * 1.0  # Many are equal.
    store = stored(tmp_path, [Served(PODS[n % 3], n * 100, length) for n, length in enumerate(lengths)])
    rows = {(r["property"], r["within"], r["measure"]): r for r in compared(store, 30)}
    store.close()
    own = [x for n, x in enumerate(lengths) if n % 3 == 0 and n != 30]
    others = [x for n, x in enumerate(lengths) if n % 3]
    u = sum((a > b) + 0.5 * (a == b) for a in own for b in others)
    sizes, total = np.unique([*own, *others], return_counts=True)[1], len(own) + len(others)
    tied = float((sizes**3 - sizes).sum()) / (total * (total - 1))
    sigma = np.sqrt(len(own) * len(others) / 12 * (total + 1 - tied))
    row = rows["pod", None, "duration_ns"]
    assert row["z"] == pytest.approx((u - len(own) * len(others) / 2) / sigma)
    assert (row["own"], row["peers_p50"]) == (np.median(own) * 1e6, np.median(others) * 1e6)
    assert (row["own_requests"], row["peers"], row["others"]) == (19, 40, 2)


def test_failed_and_open_requests_and_other_paths_are_no_peers(tmp_path: Path) -> None:
    store = stored(tmp_path, [Served(PODS[0], n * 100, 100) for n in range(12)])
    common = {"node": "n0", "side": "server", "process_uid": "n0:1:9", "method": "POST", "ordinal": 0}
    start = store.query("SELECT min(start_ns) AS ns FROM http_exchange")["ns"][0].as_py()
    odd = [
        {"path": "/v1/completions", "status": 503, "end_ns": start + 1},
        {"path": "/v1/completions", "status": 200, "end_ns": None},
        {"path": "/v1/completions", "status": 200, "end_ns": start + 1, "ended_by": "abort"},
        {"path": "/v1/embeddings", "status": 200, "end_ns": start + 1},
    ]
    rows = [common | {"start_ns": start, "connection_id": 900 + n} | row for n, row in enumerate(odd)]
    columns = {c: [row.get(c) for row in rows] for c in {c for row in rows for c in row}}
    store.write([Batch(schema.table("http_exchange"), schema.table("http_exchange").batch(columns), "odd")])
    peers = {row["peers"] for row in compared(store, 5) if row["property"] is None and row["measure"] == "duration_ns"}
    store.close()
    assert peers == {11}
