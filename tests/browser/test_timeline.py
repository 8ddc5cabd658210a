"""The timeline in a real browser: drawn, moved, searched, measured, and found again by its address."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from playwright.sync_api import Page

from correlator.timeline import timeline_bars, timeline_draw
from tests import waiting
from tests.browser.conftest import Watched, sharp, shown
from tests.dashboards import scene
from tests.waiting import until

pytestmark = pytest.mark.browser

REQUEST = f"/request?id={scene.REQUEST_ID}"
SPAN = "warplineTimeline.t1 - warplineTimeline.t0"
COLOURS = """(() => {
  const canvas = warplineTimeline.parts.body, seen = new Set();
  const dots = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  for (let i = 0; i < dots.length; i += 16) seen.add((dots[i] << 16) | (dots[i + 1] << 8) | dots[i + 2]);
  return seen.size; })()"""
OPEN_ROWS = "warplineTimeline.layout.items.filter((each) => each.kind === 'row' && each.group.title === 'GPU 0').length"
FIRST_KERNEL = """(() => {
  const t = warplineTimeline, rows = t.layout.items.filter((each) => each.kind === "row" && each.track.lane === "kernel");
  t.parts.scroller.scrollTop = rows[0].y - 100;
  const chunk = t.shown[t.shown.length - 1], box = t.parts.body.getBoundingClientRect(), seen = [];
  for (const item of rows.slice(0, 2)) {
    const part = chunk.rows.get(item.row.id);
    for (let at = part.from; at < part.to; at++) {
      const ns = chunk.start + (chunk.x[at] + chunk.w[at] / 2) * chunk.unit;
      if (chunk.count[at] === 0 && ns > t.t0 && ns < t.t1) seen.push([chunk.w[at], ns, item]);
    }
  }
  const [, ns, item] = seen.sort((a, b) => b[0] - a[0])[0];
  const down = item.y - t.parts.scroller.scrollTop + item.h / 2;
  return [box.x + (ns - t.t0) / (t.t1 - t.t0) * t.width, box.y + down]; })()"""

PAINTED = """(() => {
  const rows = warplineTimeline.layout.items.filter((each) => each.kind === "row");
  return [...new Set(rows.map((each) => each.group.title))].slice(0, 4); })()"""
PLACED = "warplineTimeline.layout.placeOf(each[0])"
SILENT_LINES = """(() => {
  const t = warplineTimeline, written = [], painter = t.rowPainter, context = painter.context;
  const fill = context.fillText.bind(context);
  const seen = (at, end) => {
    written.length = 0;
    const line = { at, value: at.map(() => 0.5) };
    const lines = { lineOrigin: 0, lineBucket: 1e9, lineGap: 3 };
    const view = { t0: 0, t1: end, width: 1000, ratio: 1, scroll: 0, theme: t.theme, ...lines };
    const scale = painter.scale;
    painter.scale = 1000 / end;
    context.fillText = (text, x) => written.push([text, x]);
    painter.line(view, { y: 0, h: 34, line, unit: "1" });
    context.fillText = fill;
    painter.scale = scale;
    return written.filter(([text]) => text === "no readings").map(([, x]) => x * end / 1000);
  };
  return { ended: seen([0, 1, 2, 3, 4, 5], 20e9), whole: seen([0, 1, 2, 3, 4, 5], 7e9), few: seen([0], 20e9) }; })()"""
FEW = """(() => {
  const t = warplineTimeline, painter = t.rowPainter, { pixels, scale } = painter;
  const drawn = (bars) => {
    const line = new Uint8ClampedArray(4000), each = (value) => Array(bars).fill(value);
    const chunk = {
      start: 0, unit: 1, x: each(0).map((_, at) => 100 + 5 * at), w: each(1), density: each(3), count: each(0),
      name: each(0), names: [["dropped", "flow", 0]],
    };
    Object.assign(painter, { pixels: 1000, scale: 1, labels: [] });
    const view = { t0: 0, theme: t.theme, ratio: 1, chunks: [chunk] }, part = { from: 0, to: bars };
    painter.bars(view, { y: 0, h: 18 }, chunk, part, line, true);
    Object.assign(painter, { pixels, scale });
    return [[...Array(1000).keys()].filter((pixel) => line[pixel * 4 + 3]), [...line.slice(400, 403)]];
  };
  return [drawn(2), drawn(100)]; })()"""
TOGETHER = """(() => {
  const t = warplineTimeline, over = t.rowPainter.over, context = over.context, written = [], fill = context.fillText;
  context.fillText = (text, x) => written.push([text, x, x + context.measureText(text).width]);
  const mark = { kind: "throttled", start_ns: t.t0, end_ns: t.t1, amount: null };
  const marks = ["power", "thermal"].map((what) => ({ ...mark, what }));
  over.marks({ t0: t.t0, t1: t.t1, width: 1000, theme: t.theme }, marks, 0, 18, true);
  context.fillText = fill;
  return written; })()"""
FIRST_MARK = """(() => {
  const t = warplineTimeline, item = t.layout.items.find((each) => each.kind === "marks"), mark = item.marks[0];
  t.parts.scroller.scrollTop = item.y - 100;
  t.parts.scroller.scrollIntoView({ block: "center" });
  const box = t.parts.body.getBoundingClientRect(), down = item.y - t.parts.scroller.scrollTop + item.h / 2;
  const middle = (Math.max(mark.start_ns, t.t0) + Math.min(mark.end_ns, t.t1)) / 2;
  return [box.x + (middle - t.t0) / (t.t1 - t.t0) * t.width, box.y + down]; })()"""


def opened(watched: Watched, url: str) -> Page:
    watched.page.goto(url)
    sharp(watched.page)
    return watched.page


def test_a_request_is_drawn_without_errors_and_asks_no_other_host(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST)
    assert page.evaluate(COLOURS) > 12
    assert page.get_by_text("SIMULATED").first.is_visible()
    assert page.get_by_text("GPU 7", exact=False).count() > 0
    assert watched.errors == []
    assert watched.hosts == {address.removeprefix("http://")}


@pytest.mark.skipif(timeline_draw.library is None, reason="draw.c is not built here")
def test_what_is_still_being_read_is_drawn_as_far_as_it_is_and_then_sharply(watched: Watched, tmp_path: Path) -> None:
    go, read = threading.Event(), timeline_bars._batches

    def slowly(*asked: Any) -> Iterator[Any]:
        seen = 0
        for batch in read(*asked):
            if seen > 20_000:
                go.wait(120)
            seen += batch.num_rows
            yield batch

    page = watched.page
    with (
        mock.patch.object(timeline_bars, "_batches", slowly),
        shown(tmp_path, scene.scene(60_000, 40).batches) as found,
    ):
        page.goto(found + REQUEST)
        page.get_by_text("% so far").wait_for()
        page.wait_for_function("warplineTimeline.firstSeen && warplineTimeline.chunks.early.read > 0.1")
        early = page.evaluate(
            "[warplineTimeline.stats.sharp, warplineTimeline.chunks.early.bars > 0, warplineTimeline.chunks.early.read]"
        )
        assert early[:2] == [False, True]
        assert early[2] < 1
        page.evaluate("warplineTimeline.show(warplineTimeline.total * 0.4, warplineTimeline.total * 0.5)")
        go.set()
        sharp(page)
        page.wait_for_function("!warplineTimeline.chunks.early && warplineTimeline.chunks.whole()")
        assert page.get_by_text("% so far").is_hidden()
        assert watched.errors == []


def test_keys_zoom_move_and_reset(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST)
    whole = page.evaluate(SPAN)
    page.locator("canvas.wl-body").hover(position={"x": 400, "y": 60})
    page.locator(".wl").focus()
    for _ in range(5):
        page.keyboard.press("w")
    near = page.evaluate(SPAN)
    assert near == pytest.approx(whole * 0.7**5, rel=0.01)
    start = page.evaluate("warplineTimeline.t0")
    page.keyboard.press("d")
    assert page.evaluate("warplineTimeline.t0") > start
    assert page.evaluate(SPAN) == pytest.approx(near, rel=0.001)
    page.keyboard.press("0")
    assert page.evaluate(SPAN) == pytest.approx(whole, rel=0.001)
    assert watched.errors == []


def test_a_view_is_found_again_by_its_address_and_the_way_back_works(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST)
    page.locator(".wl").focus()
    for _ in range(6):
        page.keyboard.press("w")
    page.wait_for_url("**t0=*")
    sharp(page)
    link, view = page.url, page.evaluate("[warplineTimeline.t0, warplineTimeline.t1]")
    page.goto(address + "/requests")
    page.get_by_role("heading", name="Requests").wait_for()
    page.goto(link)
    sharp(page)
    assert page.evaluate("[warplineTimeline.t0, warplineTimeline.t1]") == pytest.approx(view, abs=1)
    page.go_back()
    page.get_by_role("heading", name="Requests").wait_for()
    assert watched.errors == []


def test_moving_on_before_the_whole_has_come_asks_for_each_view_once(watched: Watched, address: str) -> None:
    page, asked = watched.page, list[str]()
    page.on("request", lambda request: asked.append(request.url) if "/wl/chunk" in request.url else None)
    page.route("**/wl/chunk*", lambda route: (time.sleep(0.04), route.continue_()))  # A slow network.
    opened(watched, address + REQUEST + "&t0=300000000&t1=300400000")
    page.evaluate("for (let at = 0; at < 8; at++) setTimeout(() => warplineTimeline.zoom(2.5, 300), at * 30)")
    page.wait_for_function(
        "warplineTimeline.chunks.whole() && !warplineTimeline.chunks.running && warplineTimeline.stats.sharp"
    )
    assert len(asked) <= 20  # Two at the start, and for each of eight views at most itself and the whole.
    assert watched.errors == []


def test_a_kernel_tells_its_exact_time_its_launch_and_who_was_in_its_step(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST + "&t0=300000000&t1=300400000")
    x, y = page.evaluate(FIRST_KERNEL)
    page.wait_for_timeout(100)
    page.mouse.move(x, y)
    page.locator(".wl-tip").get_by_text(" ns").first.wait_for()
    page.mouse.click(x, y)
    details = page.locator(".wl-details")
    details.get_by_text("GPU execution").wait_for()
    assert details.get_by_text("cudaLaunchKernel").is_visible()
    assert details.get_by_text("exact").first.is_visible()
    assert details.get_by_text("Who was in step").is_visible()
    assert page.evaluate("warplineTimeline.links.length") == 1
    page.keyboard.press("Escape")
    assert not details.is_visible()
    assert watched.errors == []


def test_a_search_counts_marks_and_steps_through_matches(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST)
    page.locator(".wl").focus()
    page.keyboard.press("/")
    page.keyboard.type("flash_fwd")
    page.get_by_text("found, Enter steps").wait_for()
    assert page.evaluate("warplineTimeline.matches.length") == 200
    page.keyboard.press("Enter")
    page.get_by_text("1 of 200").wait_for()
    page.locator(".wl-details").get_by_text("flash_fwd").first.wait_for()
    assert watched.errors == []


def test_a_measured_window_lists_what_took_the_time_in_it(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST)
    box = page.locator("canvas.wl-body").bounding_box()
    assert box is not None
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + 300, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 500, box["y"] + 90, steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    page.locator(".wl-details").get_by_text("What took the time").wait_for()
    assert page.evaluate("warplineTimeline.measured[1] - warplineTimeline.measured[0]") > 0
    assert watched.errors == []


def test_the_critical_path_is_drawn_and_says_what_the_request_waited_for(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST)
    page.locator(".wl").focus()
    page.keyboard.press("p")
    details = page.locator(".wl-details")
    details.get_by_text("on a GPU, in its own steps").wait_for()
    assert details.get_by_text("waiting in the engine's queue").is_visible()
    assert page.evaluate("warplineTimeline.path.stretches.length") > 20
    assert page.evaluate(f"warplineTimeline.path.stretches.every((each) => {PLACED})")
    page.keyboard.press("p")
    assert not details.is_visible()
    assert watched.errors == []


def test_throttling_and_errors_of_a_gpu_are_marked_and_told(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST)
    page.wait_for_function("warplineTimeline.layout.marks.length")

    def told() -> bool:
        x, y = page.evaluate(FIRST_MARK)  # What comes late above the timeline moves it.
        page.mouse.move(0, 0)
        page.mouse.move(x, y)
        return page.locator(".wl-tip").get_by_text("throttled: power").is_visible()

    until(told)
    page.locator(".wl-table").get_by_text("XID 94").wait_for(state="attached")
    (one, _, end), (other, begin, _) = page.evaluate(TOGETHER)
    assert (one, other) == ("throttled: power", "throttled: thermal") and begin > end, (
        "Each of two has room for its name"
    )
    assert watched.errors == []


def test_thin_bars_are_drawn_to_be_seen_where_each_has_room(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST)
    (few, whole), (many, faint) = page.evaluate(FEW)
    assert few == [100, 101, 105, 106], "Two pixels each"
    assert whole == [0x56, 0xB4, 0xE9], "A flow's colour, whole"
    assert many == list(range(100, 600, 5)), "Of a hundred each has its own pixel alone"
    assert faint != whole, "What is dense is drawn as dense as it is"
    assert watched.errors == []


def test_the_legend_tells_the_colours_of_steps_apart_from_those_of_gpu_work(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST)
    legend = page.locator(".wl-legend")
    assert legend.locator("b").all_inner_texts() == ["Engine steps", "GPU work"]
    assert legend.get_by_text("prefill and decode in one step").is_visible()
    assert legend.get_by_text("gemm").is_visible()
    assert watched.errors == []


def test_a_line_without_readings_says_so_and_one_between_two_readings_does_not(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST)
    page.wait_for_function("warplineTimeline.layout.lines.length")
    said = page.evaluate(SILENT_LINES)
    # The middle of the stretch from the last reading, at 5.5 s, to the view's end.
    assert said == {"ended": [pytest.approx(12.75e9)], "whole": [], "few": []}
    assert page.locator(".wl-label", has_text="any kernel runs").count() >= 1
    assert watched.errors == []


def test_groups_collapse_and_stay_so_on_the_next_visit(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST)
    assert page.evaluate(OPEN_ROWS) == 2
    page.get_by_role("button", name="▾ GPU 0", exact=True).click()
    assert page.evaluate(OPEN_ROWS) == 0
    opened(watched, address + REQUEST)
    assert page.evaluate(OPEN_ROWS) == 0


def groups(page: Page) -> list[str]:
    """Return the titles of the groups from top to bottom, as they stand on the screen."""
    stand = (
        "(heads) => heads.map((each) => [each.getBoundingClientRect().top, each.querySelector('.wl-fold').textContent])"
    )
    return [str(title).lstrip("▾▸ ") for _, title in sorted(page.locator(".wl-group").evaluate_all(stand))]


def press(page: Page, group: str, button: str) -> None:
    """Press a button on a group's head, which shows it under the pointer."""
    head = page.locator(".wl-group").filter(has_text=group)
    head.hover()
    head.get_by_role("button", name=button, exact=True).click()


def stand(page: Page, *first: str) -> None:
    """Wait until groups stand on the screen in this order, the first ones first."""
    waiting.until(lambda: groups(page)[: len(first)] == list(first), 20)


def test_a_group_is_pinned_to_the_top_others_are_moved_and_both_stay_so(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST)
    page.locator(".st-key-causes").wait_for()  # They stand above, and move the timeline down.
    page.get_by_text("like it").wait_for()  # The last of them.
    stand(page, "Client", "Mesh hops", "Network", "Server", "Server threads")
    press(page, "Engine", "Pin to the top")
    stand(page, "Engine", "Client", "Mesh hops", "Network")
    press(page, "Network", "Move up")
    stand(page, "Engine", "Client", "Network", "Mesh hops")
    press(page, "Client", "Move down")
    stand(page, "Engine", "Network", "Client", "Mesh hops")
    assert page.evaluate(PAINTED) == ["Engine", "Network", "Client", "Mesh hops"]  # The canvas follows the heads.
    opened(watched, address + REQUEST)
    page.locator(".st-key-causes").wait_for()
    stand(page, "Engine", "Network", "Client", "Mesh hops")
    press(page, "Engine", "Unpin")
    stand(page, "Network", "Client", "Mesh hops", "Server", "Server threads", "Engine")
    assert watched.errors == []


def test_the_timeline_is_a_table_for_those_who_hear_it(watched: Watched, address: str) -> None:
    page = opened(watched, address + REQUEST)
    table = page.locator(".wl-table")
    table.get_by_text("CUDA stream 7").first.wait_for(state="attached")
    assert table.locator("tbody tr").count() > 20
    page.locator(".wl").focus()
    page.keyboard.press("t")
    assert "wl-hidden" not in (table.get_attribute("class") or "")
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Keyboard and mouse").is_visible()
    assert watched.errors == []
