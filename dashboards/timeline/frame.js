// The elements around the canvases: toolbar, labels with their group buttons, legend, details, table.

import { duration } from "./format.js";
import { SIZE } from "./layout.js";
import { colour, LEGEND, STEPS } from "./palette.js";
import { button, help, make } from "./panel.js";

/** Fill the component's box; returns its parts by name. */
export function build(box, timeline) {
  const { tracks } = timeline.data, parts = { box };
  box.tabIndex = 0;
  box.setAttribute("role", "application");
  box.setAttribute("aria-label", "Timeline. W and S zoom, A and D move, question mark shows all keys, T shows a table.");
  parts.range = make("span", { class: "wl-range", "aria-live": "polite" });
  parts.busy = make("span", { class: "wl-busy" }, "loading");
  parts.error = make("span", { class: "wl-error", role: "alert" });
  parts.search = make("input", { type: "search", placeholder: "Search names  /", oninput: (event) => timeline.find(event.target.value) });
  parts.search.setAttribute("aria-label", "Search names of bars");
  parts.found = make("span", { class: "wl-faint", "aria-live": "polite" });
  parts.bar = toolbar(timeline, parts, tracks);
  parts.head = make("canvas", { class: "wl-head-canvas" });
  parts.scroller = make("div", { class: "wl-scroll" });
  parts.labels = make("div", { class: "wl-labels" });
  parts.body = make("canvas", { class: "wl-body" });
  parts.page = make("div", { class: "wl-page" }, parts.labels, parts.body);
  parts.scroller.append(parts.page);
  parts.scroller.style.height = `${timeline.data.height}px`;
  parts.tip = make("div", { class: "wl-tip", role: "tooltip" });
  parts.details = make("div", { class: "wl-details", role: "region", "aria-label": "Details" });
  parts.closeDetails = button("✕", "Close the details", () => timeline.escape());
  parts.closeDetails.classList.add("wl-close");
  parts.table = make("div", { class: "wl-table wl-hidden" });
  parts.help = help(() => timeline.toggleHelp());
  parts.help.classList.add("wl-off");
  const corner = make("div", { class: "wl-corner" }, make("span", {}, "whole"), make("span", {}, "in view"));
  const head = make("div", { class: "wl-head" }, corner, parts.head);
  box.replaceChildren(parts.bar, head, parts.scroller, parts.tip, parts.help, legend(tracks), parts.details, parts.table);
  return parts;
}

function toolbar(timeline, parts, tracks) {
  const simulated = tracks.simulated
    ? make("span", { class: "wl-simulated", title: "No real device made some of these rows: a double did." }, "SIMULATED") : null;
  const live = tracks.live ? make("span", { class: "wl-live", title: "Rows may still arrive; reload to see them." }, "LIVE") : null;
  const clocks = [...tracks.clocks].map((each) => make(
    "span", { class: "wl-clock", title: `${each.other_node}'s clock is ahead of ${each.node}'s by between ${duration(each.low_ns)} and ${duration(each.high_ns)} (${each.status}). Whiskers show it.` },
    `clocks ±${duration((each.high_ns - each.low_ns) / 2)}`,
  ));
  const own = button("own steps", "Fade GPU work of steps that this request took no part in", (event) => {
    timeline.dimOthers = !timeline.dimOthers;
    event.currentTarget.setAttribute("aria-pressed", String(timeline.dimOthers));
    timeline.draw();
  }, true);
  parts.path = timeline.data.subject.startsWith("request/")
    ? button("path", "What the request was in at each moment, and what it waited for (P)", () => timeline.togglePath(), false) : null;
  return make(
    "div", { class: "wl-bar" }, parts.range, simulated, live, ...clocks, parts.busy, parts.error, make("span", { class: "wl-grow" }),
    parts.found, parts.search, timeline.data.own ? own : null,
    parts.path,
    button("−", "Zoom out (S)", () => timeline.zoom(1 / 0.6, timeline.width / 2)), button("+", "Zoom in (W)", () => timeline.zoom(0.6, timeline.width / 2)),
    button("all", "Show all (0)", () => timeline.show(0, timeline.total)), button("groups", "Collapse or open all groups (C)", () => timeline.collapseAll()),
    button("table", "The same as a table (T)", () => timeline.toggleTable()), button("?", "Keyboard and mouse (?)", () => timeline.toggleHelp()),
  );
}

function legend(tracks) {
  const key = (kind, said) => {
    const swatch = make("i");
    swatch.style.background = `rgb(${colour(kind, kind).join(",")})`;
    return make("span", {}, swatch, said);
  };
  const nodes = [], title = (text) => make("b", {}, text);
  if (tracks.groups.some((group) => group.id === "engine")) {
    nodes.push(title("Engine steps"), ...Object.entries(STEPS).map(([kind, said]) => key(kind, said)));
  }
  if (tracks.groups.some((group) => group.gpu)) {
    const idle = make("span", {}, make("i", { class: "wl-idle-key" }), "GPU idle");
    nodes.push(title("GPU work"), ...LEGEND.map((kind) => key(kind, kind)), idle);
  }
  return nodes.length ? make("div", { class: "wl-legend", "aria-hidden": "true" }, ...nodes) : make("div");
}

/** Put the labels where the layout says. */
export function labels(timeline) {
  const { layout, parts } = timeline, nodes = [];
  for (const item of layout.items) {
    if (item.kind === "group") nodes.push(groupLabel(timeline, item));
    else if (item.kind === "line") nodes.push(lineLabel(item));
    else if (item.kind === "marks") nodes.push(placed(item, "wl-label", "throttled, errors", item.group.hint));
    else nodes.push(rowLabel(item));
  }
  if (timeline.data.tracks.hidden_rows) {
    const more = make("div", { class: "wl-label wl-faint" }, `${timeline.data.tracks.hidden_rows} quieter tracks are not shown`);
    more.style.top = `${layout.height}px`;
    nodes.push(more);
  }
  parts.labels.replaceChildren(...nodes);
  parts.page.style.height = `${layout.height + (timeline.data.tracks.hidden_rows ? 24 : 0)}px`;
}

/** Two readings that look alike and are not. */
const MEANT = {
  "any kernel runs": "Share of the time in which any kernel ran, however small: 100 % does not mean that the GPU is full. SM activity says how much of it worked.",
  "SM activity": "Share of the GPU's multiprocessors (SMs) that had work, on average: low while any kernel runs means small kernels.",
};

function lineLabel(item) {
  const meant = MEANT[item.title] ? `\n${MEANT[item.title]}` : "";
  const node = placed(item, "wl-label", item.title, `${item.title}${meant}\n${item.line.metric}\n${item.line.gpu_uuid}`);
  const unit = { 1: "%", By: "bytes", "By/s": "bytes/s" }[item.unit] || item.unit;
  node.append(make("span", { class: "wl-unit" }, unit));
  return node;
}

function rowLabel(item) {
  const first = item.row === item.track.rows[0];
  const busy = `${item.row.bars.toLocaleString("en")} bars, busy ${duration(item.row.busy_ns)}, longest ${duration(item.row.longest_ns)}`;
  return placed(item, first ? "wl-label" : "wl-label wl-deeper", first ? item.track.label : "", `${item.track.label}\n${item.track.hint}\n${busy}`);
}

function placed(item, kind, text, title) {
  const node = make("div", { class: kind, title }, text);
  node.style.top = `${item.y}px`;
  node.style.height = `${item.h}px`;
  node.style.lineHeight = `${item.h}px`;
  return node;
}

function groupLabel(timeline, item) {
  const { group, closed } = item, { layout } = timeline, pinned = layout.pinned.includes(group.id);
  const again = (action) => (event) => {
    event.stopPropagation();
    action();
    timeline.relaid();
  };
  const fold = make("button", { type: "button", class: "wl-fold", title: group.hint || group.title, onclick: () => timeline.fold(group) },
    `${closed ? "▸" : "▾"} ${group.title}`);
  fold.setAttribute("aria-expanded", String(!closed));
  const count = group.tracks.length + (group.lines ? group.lines.length : 0);
  const node = make(
    "div", { class: "wl-group" }, fold, closed ? make("span", { class: "wl-faint" }, ` ${count}`) : null, make("span", { class: "wl-grow" }),
    button(pinned ? "◆" : "◇", pinned ? "Unpin" : "Pin to the top", again(() => layout.pin(group))),
    button("↑", "Move up", again(() => layout.move(group, -1))), button("↓", "Move down", again(() => layout.move(group, 1))),
  );
  node.style.top = `${item.y}px`;
  node.style.height = `${SIZE.group - 1}px`;
  return node;
}
