"""vLLM's own scheduler with KV transfers, the plugin registered as vLLM registers it. Run by vLLM's Python.

`python vllm_transfers.py DIRECTORY recompute|fail`: a connector that moves nothing (tests/simulator/vllm_connector.py) lets
requests wait for KV caches, and keeps those of others, until the workers' word, which is ours: it comes, or some is broken,
or its request is dropped first. What vLLM does of a broken one is the second argument. Writes to DIRECTORY/truth.json, of
each transfer, between which readings of CLOCK_MONOTONIC the scheduler was called that began it and that ended it, and the
records that the plugin wrote. data/vllm-0.33.0-transfers-recompute.json and -fail.json are such files.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import vllm_workload  # First: it registers the plugin before vLLM is loaded.
from vllm.config import KVTransferConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from warpline_vllm.ring import StepRing

_RECEIVED = {
    "cmpl-nixl": {"remote_request_id": "cmpl-far-1"},
    "cmpl-mooncake": {"transfer_id": "xfer-2"},
    "cmpl-broken": {"remote_request_id": "cmpl-far-3"},
    "cmpl-lost": {"remote_request_id": "cmpl-far-4"},
    "cmpl-dropped": {"remote_request_id": "cmpl-far-5"},
}
_SENT = {"cmpl-offered": {}, "cmpl-pushed": {"transfer_id": "xfer-7"}}


def requests() -> dict[str, Request]:
    """Those that wait for their caches, those whose caches are kept, and one of neither kind."""
    init_none_hash(sha256)
    hasher = get_request_block_hasher(16, sha256)
    wanted = {each: {"do_remote_prefill": True, **more} for each, more in _RECEIVED.items()}
    wanted |= {each: {"do_remote_decode": True, **more} for each, more in _SENT.items()}
    made = {}
    for n, (name, params) in enumerate([*wanted.items(), ("cmpl-plain", None)]):
        asked = {"kv_transfer_params": params} if params else None
        sampling = SamplingParams(max_tokens=1 if name in _SENT else 3, ignore_eos=True, extra_args=asked)
        prompt = [1000 * n + i for i in range(35)]
        made[name] = Request(name, prompt, sampling, None, arrival_time=0.0, block_hasher=hasher)
    return made


class Run:
    """The scheduler, with what its calls began and ended."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.requests = requests()
        self.truth: dict[str, dict[str, Any]] = {}
        for each in self.requests.values():
            scheduler.add_request(each)

    def call(self, begun: tuple[str, ...], ended: dict[str, str | None], what: Callable[[], Any]) -> Any:
        """Call the scheduler, which begins and ends transfers thereby."""
        before = time.monotonic_ns()
        result = what()
        within = [before, time.monotonic_ns()]
        for each in begun:
            self.truth[each] = {"begun": within}
        for each, outcome in ended.items():
            self.truth[each] |= {"ended": within, "outcome": outcome}
        return result

    def step(self, begun: tuple[str, ...] = (), sent: tuple[str, ...] = (), **said: Any) -> None:
        """One step; requests `begun` begin to wait, those of `sent` finish in it, workers say what `said` holds."""
        ended = said.pop("ended", {})
        output = self.call(begun, {}, self.scheduler.schedule)
        ids = list(output.num_scheduled_tokens)
        known = {each: n for n, each in enumerate(ids)}
        model = ModelRunnerOutput(ids, known, [[5] for _ in ids], kv_connector_output=KVConnectorOutput(**said))
        self.call(sent, ended, lambda: self.scheduler.update_from_output(output, model))


def remember() -> list[tuple[int, str]]:
    """Return a list that gets what the plugin writes: kind, and payload in hexadecimal digits."""
    found: list[tuple[int, str]] = []
    write = StepRing.write

    def noting(ring: StepRing, kind: int, *parts: bytes) -> None:
        found.append((kind, b"".join(parts).hex()))
        write(ring, kind, *parts)

    StepRing.write = noting  # type: ignore[method-assign]
    return found


def main() -> None:
    directory, policy, records = Path(sys.argv[1]), sys.argv[2], remember()
    transfer = KVTransferConfig(
        kv_connector="Later",
        kv_connector_module_path="vllm_connector",
        kv_role="kv_both",
        kv_load_failure_policy=policy,
    )
    run = Run(vllm_workload.make(directory, False, kv_transfer_config=transfer))
    blocks = run.scheduler.kv_cache_manager.get_block_ids
    run.step(begun=tuple(_RECEIVED), sent=tuple(_SENT))
    run.step(finished_recving={"cmpl-nixl"}, ended={"cmpl-nixl": "done"})
    broken = set(blocks("cmpl-broken")[0][1:2])
    run.step(
        finished_recving={"cmpl-broken", "cmpl-lost"}, failed_recving={"cmpl-lost"}, invalid_block_ids=broken,
        ended={"cmpl-broken": "failed", "cmpl-lost": "failed"},
    )  # fmt: skip
    drop = partial(run.scheduler.finish_requests, "cmpl-dropped", RequestStatus.FINISHED_ABORTED)
    run.call((), {"cmpl-dropped": "aborted"}, drop)
    everything = {"cmpl-mooncake": "done", "cmpl-offered": None, "cmpl-pushed": None}
    run.step(finished_recving={"cmpl-mooncake", "cmpl-dropped"}, finished_sending=set(_SENT), ended=everything)
    while run.scheduler.has_requests():
        run.step()
    told = {each: str(request.get_finished_reason()) for each, request in run.requests.items()}
    truth = {"transfers": run.truth, "finished": told, "records": records}
    (directory / "truth.json").write_text(json.dumps(truth, indent=0) + "\n")


if __name__ == "__main__":
    main()
