import shutil
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.collectors.test_agent_tls import made
from tests.waiting import until
from warpline import governor, schema
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.governor import ALL, LEAST, ORDINARY, Governor
from warpline.settings import Settings
from warpline.source import Context, Runner


class Quiet:
    TABLES = (schema.table("loss"),)
    SCOPE = "node"

    def check(self, settings: Settings) -> str | None:
        return None

    def run(self, context: Context) -> Iterator[Batch]:
        context.stop.wait()
        return iter(())


class Costly(Runner):
    """A runner whose cost the test sets."""

    spent_ns = 0

    def cpu_ns(self) -> int:
        return self.spent_ns


@pytest.fixture
def lost() -> list[Batch]:
    return []


@pytest.fixture
def runner(tmp_path: Path, lost: list[Batch]) -> Costly:
    return Costly(Quiet(), Context("probe", "n", Settings(), NodeClock(tmp_path), lost.append))


def govern(runner: Costly, wanted: bytes = b"{}", detail: int = ORDINARY) -> Governor:
    made = Governor(Settings(collector_detail=detail, collector_budget_ratio=0.05), "n", lambda: wanted)
    made.govern(runner)
    return made


def spend(runner: Costly, made: Governor, ratio: float, times: int = 1) -> None:
    """Let the runner cost `ratio` of a core over an interval of 5 s, `times` over."""
    for _ in range(times):
        made._costs["probe"].at_s -= 5.0
        runner.spent_ns += int(5e9 * ratio)
        made.look()


def test_a_source_over_its_budget_steps_down_at_once_and_says_so(runner: Costly, lost: list[Batch]) -> None:
    made = govern(runner)
    spend(runner, made, 0.2)
    assert runner.context.detail() == LEAST
    assert [b.rows.to_pylist()[0]["reason"] for b in lost] == ["detail lowered to keep the budget"]
    assert runner.context.cost_ratio == pytest.approx(0.2, rel=0.05)


def test_the_least_level_is_never_left_for_cost(runner: Costly, lost: list[Batch]) -> None:
    made = govern(runner)
    spend(runner, made, 0.9, times=5)
    assert runner.context.detail() == LEAST
    assert len(lost) == 1


def test_a_level_comes_back_after_a_calm_while_only(runner: Costly) -> None:
    made = govern(runner)
    spend(runner, made, 0.2)
    spend(runner, made, 0.01, times=governor._CALM_INTERVALS - 1)
    assert runner.context.detail() == LEAST
    spend(runner, made, 0.01)
    assert runner.context.detail() == ORDINARY


def test_a_cost_between_half_and_all_of_the_budget_keeps_the_level(runner: Costly) -> None:
    made = govern(runner)
    spend(runner, made, 0.2)
    spend(runner, made, 0.04, times=50)
    assert runner.context.detail() == LEAST


@pytest.mark.parametrize(
    ("answer", "level"),
    [
        (b'{"detail": {"*": 3}}', ALL),
        (b'{"detail": {"probe": 1, "*": 3}}', LEAST),
        (b'{"detail": {"probe": 99}}', ALL),
        (b"<html>not found</html>", ORDINARY),
        (b"[]", ORDINARY),
        (b'{"detail": {"probe": "loud"}}', ORDINARY),
    ],
)
def test_what_is_asked_for_holds_and_a_senseless_answer_does_not(runner: Costly, answer: bytes, level: int) -> None:
    made = govern(runner, answer)
    made._refresh()
    assert runner.context.detail() == level


def test_windows_to_keep_reach_the_source_and_end_with_the_answer(runner: Costly) -> None:
    answers = [b'{"windows": [[1, 5], [7, 9]]}', b"<html>not found</html>"]
    made = Governor(Settings(), "n", lambda: answers.pop(0))
    made.govern(runner)
    assert runner.context.windows() == ()
    made._refresh()
    assert runner.context.windows() == ((1, 5), (7, 9))
    made._refresh()
    assert runner.context.windows() == ()


def test_a_running_thread_is_measured_by_its_own_cpu_clock(tmp_path: Path) -> None:
    enough = threading.Event()

    class Busy(Quiet):
        def run(self, context: Context) -> Iterator[Batch]:
            sum(range(3_000_000))
            enough.set()
            context.stop.wait()
            return iter(())

    context = Context("busy", "n", Settings(), NodeClock(tmp_path), lambda batch: None)
    runner = Runner(Busy(), context)
    assert runner.cpu_ns() == 0
    runner.start()
    assert enough.wait(20)
    assert runner.cpu_ns() > 5_000_000
    context.stop.set()
    assert runner.join(5)


def test_recording_is_what_a_source_over_its_budget_gives_up_first(runner: Costly, lost: list[Batch]) -> None:
    made = govern(runner)
    assert runner.context.recording()
    spend(runner, made, 0.2)
    assert (runner.context.detail(), runner.context.recording()) == (ORDINARY, False)
    assert len(lost) == 1
    spend(runner, made, 0.2)
    assert (runner.context.detail(), runner.context.recording()) == (LEAST, False)
    spend(runner, made, 0.01, times=3 * governor._CALM_INTERVALS)
    assert (runner.context.detail(), runner.context.recording()) == (ORDINARY, True)


def test_what_cannot_be_afforded_is_recorded_less_and_less_often(runner: Costly, lost: list[Batch]) -> None:
    made = govern(runner)
    tries = 0
    for _ in range(100):
        tries += runner.context.recording()
        spend(runner, made, 0.2 if runner.context.recording() else 0.01)
    assert tries == len(lost) == 4  # After 0, 12, 24 and 48 intervals of calm.


@pytest.mark.parametrize(("detail", "size_mb"), [(LEAST, 256), (ALL, 256), (ORDINARY, 0)])
def test_nothing_is_recorded_where_little_is_wanted_all_is_sent_or_no_recorder_is(
    runner: Costly, detail: int, size_mb: int
) -> None:
    made = Governor(Settings(collector_detail=detail, collector_recorder_mb=size_mb), "n", lambda: b"{}")
    made.govern(runner)
    assert not runner.context.recording()


class Answers(BaseHTTPRequestHandler):
    """A query API that wants of everybody the detail 1."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"detail": {"*": 1}}')

    def log_message(self, *args: object) -> None:
        pass


def level_after_asking(asking: Governor) -> int:
    asking._refresh()
    return asking.level("probe")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")
def test_a_query_api_behind_tls_is_asked_with_the_collectors_authority_and_certificate(
    runner: Costly, tmp_path: Path
) -> None:
    authority = made(tmp_path, "authority.test")
    own, collector = (made(tmp_path, name, authority) for name in ("localhost", "collector.test"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    context.load_cert_chain(own.certificate, own.key)
    context.verify_mode = ssl.CERT_REQUIRED
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # A stranger's handshake fails: it is meant to.
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url, ca = f"https://localhost:{server.server_port}", str(authority.certificate)
    shown = {"collector_tls_certificate": str(collector.certificate), "collector_tls_key": str(collector.key)}
    try:
        for tls, wanted in (({"collector_tls_ca": ca, **shown}, 1), ({"collector_tls_ca": ca}, 2), (shown, 2)):
            asking = Governor(Settings(collector_query_url=url, collector_detail=2, **tls), "n")
            asking.govern(runner)
            until(lambda: level_after_asking(asking) == wanted)  # noqa: B023
    finally:
        server.shutdown()
        server.server_close()
