// What stands around the canvas: the tooltip, the details of a bar, the profile of a measured window, the table, the help.
// Every text from data goes in as text, never as markup.

import { clock, duration, exact, measure, reading } from "./format.js";

/** Make an element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") node.className = value;
    else if (key.startsWith("aria-") || key === "role" || key === "title" || key === "scope") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const HELP = [
  ["W / S", "zoom in and out at the pointer"], ["A / D  or  ← / →", "move left and right"],
  ["Ctrl + wheel", "zoom at the pointer"], ["Shift + wheel", "move left and right"],
  ["drag", "move"], ["Shift + drag", "measure, and list what took the time in it"],
  ["drag on minimap or axis", "zoom to what was dragged over"], ["double click", "zoom to the bar"],
  ["F", "zoom to the selected bar"], ["0", "show all"], ["/", "search names"], ["Enter / Shift + Enter", "next and previous match"],
  ["C", "collapse or open all groups"],
  ["◇ ↑ ↓ on a group", "pin it to the top, move it"], ["P", "critical path: what the request waited for"], ["T", "the same as a table"], ["Esc", "clear selection, measure and search"],
  ["?", "this help"],
];

export function help(close) {
  const rows = HELP.map(([keys, what]) => make("tr", {}, make("td", {}, make("kbd", {}, keys)), make("td", {}, what)));
  return make(
    "div", { class: "wl-help", role: "dialog", "aria-label": "Keyboard and mouse" },
    make("div", { class: "wl-help-head" }, make("b", {}, "Keyboard and mouse"), button("✕", "Close the help", close)),
    make("table", {}, make("tbody", {}, ...rows)),
  );
}

export function button(text, title, action, pressed) {
  const node = make("button", { type: "button", title, "aria-label": title, onclick: action, class: "wl-button" }, text);
  if (pressed !== undefined) node.setAttribute("aria-pressed", String(pressed));
  return node;
}

const OWN = { 1: "in a step of this request", 2: "in a step that this request took no part in" };
const KIND = { kernel: "GPU execution", launch: "launch (host call)", syscall: "system call", off_cpu: "off CPU", step: "engine step",
  member: "step of this request", hop: "mesh hop", span: "span", connection: "connection", flow: "flow", phase: "engine phase",
  engine_request: "request in the engine", kv_transfer: "KV transfer", annotation: "range" };

/** The details of one bar as the server told them. */
export function details(answer, about) {
  const { bar } = answer;
  const lasted = bar.duration_ns === null ? "has not ended" : `${duration(bar.duration_ns)} · ${exact(bar.duration_ns)}`;
  const facts = [
    ["what", KIND[bar.lane] || bar.lane.replace("exchange.", "HTTP exchange, ")], ["lasted", lasted],
    ["began", `+${duration(Number(BigInt(bar.start_ns) - BigInt(about.from)))} · ${clock(about.from, Number(BigInt(bar.start_ns) - BigInt(about.from)), about.zone)}`],
    ["start", `${bar.start_ns} ns`], ["class", bar.class], ["step", bar.step_ordinal], ["where", [bar.node, bar.process_uid].filter(Boolean).join(" · ")],
    ["on", [bar.unit, bar.lane === "kernel" ? `CUDA stream ${bar.number}` : null].filter(Boolean).join(" · ")],
    ["source of the data", bar.simulated ? "simulated: no real device made it" : ""],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  return make(
    "div", { class: "wl-details-body" },
    make("div", { class: "wl-name" }, bar.name || "unnamed"),
    make("dl", {}, ...facts.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, String(value))])),
    links(answer, about), step(answer), edges(answer),
  );
}

function links(answer, about) {
  if (!answer.links.length) return null;
  const wait = (link) => {
    const gap = answer.bar.lane === "kernel" ? BigInt(answer.bar.start_ns) - BigInt(link.end_ns ?? link.start_ns)
      : BigInt(link.start_ns) - BigInt(answer.bar.end_ns ?? answer.bar.start_ns);
    return `${duration(Number(gap))} between`;
  };
  const items = answer.links.slice(0, 8).map((link) => make(
    "li", {}, make("span", {}, `${link.relation} `), button(link.name, "Show it", () => about.go(link)),
    make("span", { class: "wl-faint" }, ` ${duration(link.duration_ns ?? 0)}, ${wait(link)}`), evidence(link.evidence, link.rule),
  ));
  const more = answer.links.length > 8 ? make("li", { class: "wl-faint" }, `and ${answer.links.length - 8} more`) : null;
  return make("section", {}, make("h4", {}, "Tied to"), make("ul", {}, ...items, more));
}

/** A badge that says how something is known: by its text, and by its border for those who see no colour. */
export function evidence(kind, rule, confidence) {
  const sure = confidence === null || confidence === undefined || kind === "exact" ? "" : ` ${(confidence * 100).toFixed(0)} %`;
  return make("span", { class: `wl-evidence wl-${kind}`, title: rule ? `known by: ${rule.replaceAll("_", " ")}` : "" }, `${kind}${sure}`);
}

function step(answer) {
  if (!answer.step.length) return null;
  const all = answer.step.reduce((sum, each) => sum + (each.share_ns || 0), 0);
  const rows = answer.step.slice(0, 12).map((each) => make(
    "tr", { class: each.own ? "wl-own" : "" }, make("td", {}, each.own ? "this request" : each.owner.replaceAll("__", "")),
    make("td", {}, each.phase || ""), make("td", { class: "wl-number" }, each.tokens ?? ""),
    make("td", { class: "wl-number" }, each.share_ns === null ? "" : duration(each.share_ns)),
    make("td", { class: "wl-number" }, each.share_ns === null || !all ? "" : `${((each.share_ns / all) * 100).toFixed(1)} %`),
    make("td", {}, evidence(each.evidence || "unknown", each.level)),
  ));
  const head = ["who", "phase", "tokens", "GPU time", "share", "evidence"].map((each) => make("th", { scope: "col" }, each));
  return make(
    "section", {}, make("h4", {}, `Who was in step ${answer.bar.step_ordinal}`),
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)),
    answer.step.length > 12 ? make("div", { class: "wl-faint" }, `and ${answer.step.length - 12} more`) : null,
  );
}

function edges(answer) {
  if (!answer.edges.length) return null;
  const items = answer.edges.map((edge) => {
    const error = edge.error_high_ns ? `, clocks agree within ${duration(edge.error_high_ns - edge.error_low_ns)}` : "";
    const others = edge.alternatives ? `, ${edge.alternatives} others would have fitted` : "";
    return make(
      "li", {}, `${edge.from_kind.replaceAll("_", " ")} ${edge.relation.replaceAll("_", " ")} ${edge.to_kind.replaceAll("_", " ")}`,
      make("span", { class: "wl-faint" }, ` by ${edge.rule.replaceAll("_", " ")}${error}${others}`), evidence(edge.evidence, edge.rule, edge.confidence),
    );
  });
  return make("section", {}, make("h4", {}, "How it is known"), make("ul", {}, ...items));
}

/** What took the time in a measured window. */
export function profile(answer, span, search) {
  const rows = answer.names.slice(0, 60).map((each) => make(
    "tr", {}, make("td", { class: "wl-clip", title: each.name }, button(each.name || "unnamed", "Highlight it", () => search(each.name))),
    make("td", {}, KIND[each.lane] || each.lane), make("td", { class: "wl-number" }, each.bars.toLocaleString("en")),
    make("td", { class: "wl-number" }, duration(each.total_ns)), make("td", { class: "wl-number" }, duration(each.total_ns / each.bars)),
    make("td", { class: "wl-number" }, duration(each.longest_ns)),
  ));
  const head = ["name", "what", "count", "total", "mean", "longest"].map((each) => make("th", { scope: "col" }, each));
  return make(
    "div", { class: "wl-details-body" }, make("div", { class: "wl-name" }, `What took the time in these ${duration(span)}`),
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)),
  );
}

/** When a GPU was held back or failed, in words. */
export function said(mark) {
  if (mark.kind === "xid") return mark.what;
  if (mark.kind === "errors") return `${mark.amount.toLocaleString("en")} errors: ${mark.what}`;
  return `throttled: ${mark.what}${mark.amount === null ? "" : `, ${duration(mark.amount)}`}`;
}

function between(mark) {
  return `between two readings ${duration(mark.end_ns - mark.start_ns)} apart`;
}

const WAITED = {
  kernel: "on a GPU, in its own steps", member: "in its own steps, while no GPU ran for it", kv_transfer: "KV transfer",
  engine_request: "in the engine, phase not known", "exchange.server": "in the server, outside the engine", hop: "in the mesh",
  "exchange.client": "on the way between client and server",
};
const PHASE = { queue: "waiting in the engine's queue", prefill: "prefill, outside its own steps", decode: "decode, outside its own steps",
  recompute: "recomputing after a preemption" };

/** What a request waited for: the time of its critical path by what it was in. */
export function waited(totals) {
  const all = totals.reduce((sum, each) => sum + each.total_ns, 0);
  const rows = totals.map((each) => {
    const share = make("i", { class: "wl-share" });
    share.style.width = `${(each.total_ns / all) * 140}px`;
    return make(
      "tr", {}, make("td", {}, WAITED[each.lane] || PHASE[each.class] || each.class), make("td", { class: "wl-number" }, duration(each.total_ns)),
      make("td", { class: "wl-number" }, `${((each.total_ns / all) * 100).toFixed(1)} %`), make("td", {}, share),
    );
  });
  return make(
    "div", { class: "wl-details-body" }, make("div", { class: "wl-name" }, "What the request waited for"),
    all ? make("table", {}, make("tbody", {}, ...rows)) : make("p", {}, "Neither its exchanges nor its engine are known: see Pipeline health."),
    make("div", { class: "wl-faint" }, `Its critical path, ${duration(all)}: at each moment the deepest part of it that is known.`, evidence("derived", "what lies in what")),
  );
}

/** GPU readings of the window as a table. */
function readings(layout) {
  const number = (text) => make("td", { class: "wl-number" }, text);
  const rows = layout.lineGroups().flatMap((group) => [
    ...group.marks.map((mark) => make("tr", {}, make("td", {}, group.title), make("td", {}, said(mark)), number(""), number(""), number(""))),
    ...group.lines.map((line) => {
      const [title, unit] = measure(line.metric, line.part, line.rate), mean = line.value.reduce((sum, each) => sum + each, 0) / line.value.length;
      const [least, most] = [Math.min(...line.value), Math.max(...line.value)];
      return make("tr", {}, make("td", {}, group.title), make("td", {}, title), ...[least, mean, most].map((each) => number(reading(each, unit))));
    }),
  ]);
  if (!rows.length) return null;
  const head = ["GPU", "reading", "least", "mean", "most"].map((each) => make("th", { scope: "col" }, each));
  return make(
    "table", {}, make("caption", {}, "GPU readings in view"), make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows),
  );
}

/** The timeline as a table: for screen readers always, for eyes on demand. */
export function table(layout, chunk, total) {
  const rows = layout.items.filter((item) => item.kind === "row").map((item) => {
    const part = chunk && chunk.rows.get(item.row.id);
    return make(
      "tr", {}, make("td", {}, item.group.title), make("td", {}, item.track.label + (item.row.depth ? ` (depth ${item.row.depth})` : "")),
      make("td", { class: "wl-number" }, item.row.bars.toLocaleString("en")), make("td", { class: "wl-number" }, duration(item.row.busy_ns)),
      make("td", { class: "wl-number" }, `${((item.row.busy_ns / total) * 100).toFixed(1)} %`),
      make("td", { class: "wl-number" }, duration(item.row.longest_ns)),
      make("td", { class: "wl-number" }, part ? part.count.toLocaleString("en") : "0"), make("td", { class: "wl-number" }, part ? duration(part.busy) : "0"),
    );
  });
  const head = ["group", "track", "bars", "busy", "of all the time", "longest", "bars in the loaded window", "busy in it"];
  return make("div", {}, make(
    "table", {}, make("caption", {}, "What the timeline shows, row by row"),
    make("thead", {}, make("tr", {}, ...head.map((each) => make("th", { scope: "col" }, each)))), make("tbody", {}, ...rows),
  ), readings(layout));
}

/** One line that says what is under the pointer; `found` is a drawn bar, `answer` the exact one where it came. */
export function tooltip(found, answer, zone, from) {
  if (found.mark) return make("div", {}, make("b", {}, said(found.mark)), make("div", { class: "wl-faint" }, between(found.mark)));
  if (found.line) {
    const [title, unit] = measure(found.line.metric, found.line.part, found.line.rate);
    return make("div", {}, make("b", {}, title), ` ${reading(found.value, unit)}`, make("div", { class: "wl-faint" }, clock(from, found.ns, zone)));
  }
  if (answer && answer.bar && found.count === 1) {
    const { bar } = answer;
    const lasted = bar.duration_ns === null ? "has not ended" : `${duration(bar.duration_ns)} (${exact(bar.duration_ns)})`;
    const since = Number(BigInt(bar.start_ns) - BigInt(from));
    return make("div", {}, make("b", {}, bar.name || "unnamed"), make("div", {}, lasted),
      make("div", { class: "wl-faint" }, `+${duration(since)} · ${clock(from, since, zone)}`), found.own ? make("div", { class: "wl-faint" }, OWN[found.own]) : null);
  }
  const many = found.count > 1 ? `≈ ${found.count.toLocaleString("en")} bars, the longest of them shown` : "one bar, shorter than a pixel";
  const under = answer && answer.bar && answer.bar.duration_ns !== null ? `under the pointer: ${answer.bar.name} · ${exact(answer.bar.duration_ns)}` : null;
  return make("div", {}, make("b", {}, found.name), make("div", {}, found.whole ? "…" : many),
    found.whole ? null : make("div", { class: "wl-faint" }, `busy ${(found.busy * 100).toFixed(0)} % of it`), under ? make("div", { class: "wl-faint" }, under) : null);
}
