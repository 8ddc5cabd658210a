// The timeline: what can be done with what it shows. Streamlit calls the default export with the component's data.

import { labels } from "./frame.js";
import { listen } from "./input.js";
import { SIZE } from "./layout.js";
import { firstBar } from "./paint_rows.js";
import { details, profile, tooltip, waited } from "./panel.js";
import { LEAST_SPAN, View } from "./view.js";
import { ask, together } from "./wire.js";

class Timeline extends View {
  constructor(root, data) {
    super(root, data);
    this.stop = listen(this);
    this.begin();
  }

  end() {
    this.stop();
    super.end();
  }

  // Pointing and selecting

  /** What is drawn at a place: a bar, a line's value, or nothing. */
  hit(x, y) {
    const item = this.layout.at(y + this.parts.scroller.scrollTop), ns = this.time(x);
    if (!item) return null;
    if (item.kind === "line") return this.lineHit(item, ns);
    if (item.kind === "marks") return this.markHit(item, ns);
    if (item.kind !== "row") return null;
    const slack = (this.t1 - this.t0) / this.width;
    for (const chunk of [...(this.shown || [])].reverse()) {
      const part = chunk.rows.get(item.row.id);
      if (!part || ns < chunk.start || ns > chunk.end) continue;
      const place = (ns - chunk.start) / chunk.unit, near = slack / chunk.unit;
      let best = null;
      for (let at = firstBar(chunk, part, place - near); at < part.to && chunk.x[at] <= place + near; at++) {
        const away = Math.max(chunk.x[at] - place, place - chunk.x[at] - chunk.w[at], 0);
        if (away <= near && (!best || away <= best.away)) best = { at, away };
      }
      if (best) return this.found(item, chunk, best.at, ns);
      return null;
    }
    return null;
  }

  found(item, chunk, at, ns) {
    const [name, kind, own] = chunk.names[chunk.name[at]], start = chunk.start + chunk.x[at] * chunk.unit;
    return {
      item, ns, name, kind, own, start, end: start + chunk.w[at] * chunk.unit, whole: chunk.count[at] === 0,
      count: together(chunk.count[at]), busy: chunk.density[at] / 255,
    };
  }

  lineHit(item, ns) {
    const place = (ns - this.lineOrigin) / this.lineBucket - 0.5, at = item.line.at;
    let best = -1;
    for (let index = 0; index < at.length; index++) {
      if (best < 0 || Math.abs(at[index] - place) < Math.abs(at[best] - place)) best = index;
    }
    return best < 0 ? null : { item, line: item.line, value: item.line.value[best], ns: this.lineOrigin + (at[best] + 0.5) * this.lineBucket };
  }

  markHit(item, ns) {
    const near = (4 * (this.t1 - this.t0)) / this.width;
    const mark = item.marks.find((each) => ns >= each.start_ns - near && ns <= each.end_ns + near);
    return mark ? { item, mark, ns } : null;
  }

  pointTo(x, y) {
    this.pointer = x;
    this.draw();
    clearTimeout(this.hovering);
    if (this.held && this.held.moved) return this.hideTip();
    const found = this.hit(x, y);
    if (!found) return this.hideTip();
    this.tip(x, y, found, null);
    if (found.kind !== undefined) this.hovering = setTimeout(() => this.exactly(x, y, found), 110);
  }

  async exactly(x, y, found) {
    try {
      const answer = await this.at(found, "hover");
      if (this.pointer === x) this.tip(x, y, found, answer);
    } catch {
      // The tooltip keeps what the drawing knows; an error that lasts shows when chunks fail too.
    }
  }

  /** Ask for the bar at a place; of several questions for one purpose (to hover, to select) only the last goes on. */
  at(found, purpose) {
    const slack = Math.ceil((this.t1 - this.t0) / this.width), ns = BigInt(this.data.tracks.from_ns) + BigInt(Math.round(found.ns));
    this.asking ||= {};
    if (this.asking[purpose]) this.asking[purpose].abort();
    this.asking[purpose] = new AbortController();
    const address = `${this.data.address}/at?${this.data.query}&row=${found.item.row.id}&at_ns=${ns}&slack_ns=${slack}${purpose === "hover" ? "&brief=1" : ""}`;
    return ask(address, this.asking[purpose].signal);
  }

  tip(x, y, found, answer) {
    const { tip } = this.parts;
    tip.replaceChildren(tooltip(found, answer, this.data.zone, this.data.tracks.from_ns));
    tip.style.display = "block";
    const room = this.width + SIZE.label - tip.offsetWidth - 8;
    tip.style.left = `${Math.min(SIZE.label + x + 14, room)}px`;
    const below = this.parts.scroller.offsetTop + y + 18, most = this.parts.scroller.offsetTop + this.height - tip.offsetHeight - 4;
    tip.style.top = `${below > most ? this.parts.scroller.offsetTop + y - tip.offsetHeight - 10 : below}px`;
  }

  hideTip() {
    this.parts.tip.style.display = "none";
  }

  leave() {
    clearTimeout(this.hovering);
    this.pointer = null;
    this.hideTip();
    this.draw();
  }

  /** Tell what the request waited for, in all. */
  pathLoaded() {
    this.pathTold = true;
    this.detailsOf(waited(this.path.totals));
  }

  async click(x, y) {
    const item = this.layout.at(y + this.parts.scroller.scrollTop);
    if (item && item.kind === "group") return this.fold(item.group);
    const found = this.hit(x, y);
    if (!found || found.kind === undefined) return this.clearSelected();
    await this.select(found);
  }

  async select(found) {
    try {
      const answer = await this.at(found, "select");
      if (answer.bar) this.selectBar(answer);
    } catch (error) {
      if (error.name !== "AbortError") this.parts.error.textContent = `Could not read the bar: ${error.message}`;
    }
  }

  selectBar(answer) {
    const offset = (text) => Number(BigInt(text) - BigInt(this.data.tracks.from_ns));
    const bar = (each) => ({ row: each.row, lane: each.lane, start: offset(each.start_ns), end: each.end_ns ? offset(each.end_ns) : this.total });
    this.selected = bar(answer.bar);
    this.links = answer.links.map(bar);
    this.detailsOf(details(answer, { from: this.data.tracks.from_ns, zone: this.data.zone, go: (link) => this.go(bar(link)) }));
    this.draw();
  }

  detailsOf(node) {
    this.parts.details.replaceChildren(node, this.parts.closeDetails);
    this.parts.details.style.display = "block";
    this.hideTip();
  }

  /** Bring a bar into sight, opening its group, and select it. */
  async go(bar) {
    let item = this.layout.byRow.get(bar.row);
    if (!item) {
      const group = this.layout.groups().find((each) => each.tracks.some((track) => track.rows.some((row) => row.id === bar.row)));
      if (!group) return;
      this.layout.toggle(group, false);
      labels(this);
      item = this.layout.byRow.get(bar.row);
    }
    const span = this.t1 - this.t0, { scroller } = this.parts;
    if (bar.start < this.t0 || bar.end > this.t1) this.show(bar.start - span / 2, bar.start + span / 2);
    if (item.y < scroller.scrollTop || item.y + item.h > scroller.scrollTop + this.height) scroller.scrollTop = item.y - this.height / 2;
    await this.select({ item, ns: Math.min(bar.start + (bar.end - bar.start) / 2, bar.end) });
  }

  zoomTo(x, y) {
    const found = this.hit(x, y);
    if (!found || found.kind === undefined) return this.zoom(0.35, x);
    const width = Math.max(found.end - found.start, LEAST_SPAN);
    this.show(found.start - width * 0.15, found.end + width * 0.15);
  }

  fitSelected() {
    if (!this.selected) return this.show(0, this.total);
    const { start, end } = this.selected, width = Math.max(end - start, LEAST_SPAN);
    this.show(start - width * 0.5, end + width * 0.5);
  }

  clearSelected() {
    this.selected = null;
    this.links = [];
    this.parts.details.style.display = "none";
    this.draw();
  }

  // Measuring

  measure(from, to, done) {
    const [low, high] = [this.time(Math.min(from, to)), this.time(Math.max(from, to))];
    this.measured = [Math.max(low, 0), Math.min(high, this.total)];
    this.draw();
    if (done) this.profile();
  }

  async profile() {
    const [from, to] = this.measured.map((ns) => BigInt(this.data.tracks.from_ns) + BigInt(Math.round(ns)));
    try {
      const answer = await ask(`${this.data.address}/profile?${this.data.query}&since_ns=${from}&until_ns=${to}`);
      if (this.measured) this.detailsOf(profile(answer, this.measured[1] - this.measured[0], (name) => this.find(name)));
    } catch (error) {
      this.parts.error.textContent = `Could not measure: ${error.message}`;
    }
  }

  clearMeasure() {
    this.measured = null;
    this.draw();
  }

  // Searching

  find(text) {
    this.parts.search.value = text;
    this.search = text.trim().toLowerCase();
    this.draw();
    clearTimeout(this.searching);
    if (!this.search) {
      this.matches = [];
      this.parts.found.textContent = "";
      return;
    }
    this.searching = setTimeout(() => this.lookFor(text.trim()), 220);
  }

  async lookFor(text) {
    try {
      const answer = await ask(`${this.data.address}/find?${this.data.query}&text=${encodeURIComponent(text)}`);
      if (this.search !== text.toLowerCase()) return;
      const offset = (ns) => Number(BigInt(ns) - BigInt(this.data.tracks.from_ns));
      this.matches = answer.bars.map((bar) => ({ row: bar.row, start: offset(bar.start_ns), end: bar.end_ns ? offset(bar.end_ns) : this.total }));
      this.match = -1;
      const shown = answer.found > this.matches.length ? `, Enter steps through the longest ${this.matches.length}` : "";
      this.parts.found.textContent = answer.found ? `${answer.found.toLocaleString("en")} found${shown}` : "none found";
      this.draw();
    } catch (error) {
      this.parts.found.textContent = error.message;
    }
  }

  nextMatch(by) {
    if (!this.matches.length) return;
    this.match = (this.match + by + this.matches.length) % this.matches.length;
    const match = this.matches[this.match];
    this.parts.found.textContent = `${this.match + 1} of ${this.matches.length}, the longest first`;
    this.go(match);
  }

  // Groups, table, help, lines

  fold(group) {
    this.layout.toggle(group);
    this.relaid();
  }

  collapseAll() {
    this.layout.toggleAll();
    this.relaid();
  }

  relaid() {
    labels(this);
    this.tell();
    this.draw();
  }

  togglePath() {
    if (!this.parts.path) return;
    this.pathShown = !this.pathShown;
    this.parts.path.setAttribute("aria-pressed", String(this.pathShown));
    this.pathTold = false;
    if (this.pathShown) this.loadPath();
    else this.clearSelected();
  }

  toggleTable() {
    this.parts.table.classList.toggle("wl-hidden");
  }

  toggleHelp() {
    this.parts.help.classList.toggle("wl-off");
  }

  escape() {
    this.parts.help.classList.add("wl-off");
    this.clearMeasure();
    this.clearSelected();
    this.find("");
  }
}

const mounted = new WeakMap();

export default function (component) {
  const { parentElement, data } = component;
  const had = mounted.get(parentElement);
  if (had && had.shows(data)) had.update(data);
  else {
    if (had) {
      if (had.data.subject === data.subject) data.view = had.windowIn(data);
      had.end();
    }
    const timeline = new Timeline(parentElement.querySelector(".wl"), data);
    mounted.set(parentElement, timeline);
    window.warplineTimeline = timeline;
  }
  return () => {
    const timeline = mounted.get(parentElement);
    if (timeline) timeline.end();
    mounted.delete(parentElement);
  };
}
