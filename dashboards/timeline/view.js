// What the timeline shows: its window, the chunks and lines in it, and when they are drawn.

import { duration } from "./format.js";
import { build, labels } from "./frame.js";
import { Choices, Layout, SIZE } from "./layout.js";
import { HeadPainter, ticks } from "./paint_head.js";
import { RowPainter } from "./paint_rows.js";
import { table } from "./panel.js";
import { readTheme } from "./theme.js";
import { ask, Chunks } from "./wire.js";

export const LEAST_SPAN = 200;
const LINE_POINTS = 500;
/** When to ask again for what is still being read: the server waits a moment for it by itself. */
const AGAIN_MS = 100;

export class View {
  constructor(root, data) {
    this.data = data;
    this.total = Number(BigInt(data.tracks.to_ns) - BigInt(data.tracks.from_ns));
    this.t0 = data.view ? data.view[0] : 0;
    this.t1 = data.view ? data.view[1] : this.total;
    this.layout = new Layout(data.tracks, new Choices("warpline.timeline"));
    this.parts = build(root, this);
    this.rowPainter = new RowPainter(this.parts.body);
    this.headPainter = new HeadPainter(this.parts.head);
    this.chunks = new Chunks(data.address, data.query, this.total, () => this.arrived());
    this.links = [];
    this.matches = [];
    this.match = -1;
    this.search = "";
    this.pointer = null;
    this.selected = this.measured = this.held = null;
    this.dimOthers = true;
    this.path = null;
    this.pathShown = false;
    this.clocks = clockBounds(data.tracks);
  }

  begin() {
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.parts.scroller);
    this.watch = setInterval(() => this.themeChanged(), 700);
    this.clamp();
    labels(this);
    this.resize();
    this.loadLines();
  }

  /** Whether what the page has now is what is shown; it may have been read again and have nothing new. */
  shows(data) {
    const { subject, tracks } = this.data;
    return data.subject === subject && ["from_ns", "to_ns", "bars"].every((each) => data.tracks[each] === tracks[each]);
  }

  /** The window, in what the page has now: null for all of it. */
  windowIn(data) {
    if (this.t0 <= 0 && this.t1 >= this.total) return null;
    const moved = Number(BigInt(this.data.tracks.from_ns) - BigInt(data.tracks.from_ns));
    return [this.t0 + moved, this.t1 + moved];
  }

  /** Streamlit ran the page again with the same timeline: a new signature, perhaps another zone. */
  update(data) {
    this.data = data;
    this.chunks.query = data.query;
    this.draw();
  }

  end() {
    this.observer.disconnect();
    clearInterval(this.watch);
    clearTimeout(this.hovering);
    clearTimeout(this.again);
    this.chunks.forget();
  }

  // Geometry

  time(x) {
    return this.t0 + (x / this.width) * (this.t1 - this.t0);
  }

  minimapTime(x) {
    return (x / this.width) * this.total;
  }

  nsPerPixel() {
    return (this.t1 - this.t0) / (this.width * this.ratio);
  }

  resize() {
    const width = Math.floor(this.parts.scroller.clientWidth - SIZE.label), height = this.parts.scroller.clientHeight;
    if (width < 50 || height < 20) return;
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.width = width;
    this.height = height;
    for (const [canvas, tall] of [[this.parts.body, height], [this.parts.head, SIZE.minimap + SIZE.axis]]) {
      canvas.width = Math.round(width * this.ratio);
      canvas.height = Math.round(tall * this.ratio);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${tall}px`;
    }
    this.theme = readTheme(this.parts.box);
    this.refresh();
  }

  themeChanged() {
    if (!this.theme || !this.parts.box.isConnected) return;
    const now = readTheme(this.parts.box);
    if (now.background !== this.theme.background || now.text !== this.theme.text) {
      this.theme = now;
      this.draw();
    }
  }

  // Moving

  show(t0, t1) {
    this.t0 = t0;
    this.t1 = t1;
    this.clamp();
    this.refresh();
  }

  clamp() {
    const span = Math.min(Math.max(this.t1 - this.t0, LEAST_SPAN), this.total);
    const middle = (this.t0 + this.t1) / 2;
    this.t0 = Math.min(Math.max(this.t1 - this.t0 === span ? this.t0 : middle - span / 2, 0), this.total - span);
    this.t1 = this.t0 + span;
  }

  zoom(factor, x) {
    const at = this.time(x);
    this.show(at - (at - this.t0) * factor, at + (this.t1 - at) * factor);
  }

  pan(pixels) {
    const by = (pixels / this.width) * (this.t1 - this.t0);
    const moved = Math.min(Math.max(this.t0 + by, 0), this.total - (this.t1 - this.t0));
    this.show(moved, moved + this.t1 - this.t0);
  }

  /** Draw what is at hand, fetch what is missing, and, when it rests, put the window into the page's address. */
  refresh() {
    this.draw();
    if (!this.width) return;
    this.want();
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.remember(), 300);
  }

  want() {
    this.chunks.want(this.t0, this.t1, this.chunks.level(this.nsPerPixel()));
  }

  remember() {
    const url = new URL(window.location.href), all = this.t0 <= 0 && this.t1 >= this.total;
    for (const [key, value] of [["t0", this.t0], ["t1", this.t1]]) {
      if (all) url.searchParams.delete(key);
      else url.searchParams.set(key, String(Math.round(value)));
    }
    if (url.href !== window.location.href) window.history.replaceState(window.history.state, "", url);
    this.loadLines();
    if (this.pathShown) this.loadPath();
  }

  // Drawing

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.paint();
    });
  }

  paint() {
    if (!this.width) return;
    const began = performance.now(), level = this.chunks.level(this.nsPerPixel());
    const [chunks, sharp] = this.chunks.best(this.t0, this.t1, level);
    const view = {
      t0: this.t0, t1: this.t1, total: this.total, width: this.width, height: this.height, ratio: this.ratio, theme: this.theme,
      scroll: this.parts.scroller.scrollTop, layout: this.layout, chunks, whole: this.chunks.whole(), search: this.search,
      dimOthers: this.dimOthers, clocks: this.clocks, selected: this.selected, links: this.links, measured: this.measured,
      pointer: this.held ? null : this.pointer, matches: this.matches, ticks: ticks(this.t0, this.t1, this.width),
      path: this.pathShown && this.path ? this.path.stretches : [], lineOrigin: this.lineOrigin, lineBucket: this.lineBucket, lineGap: this.lineGap,
    };
    this.shown = chunks;
    this.rowPainter.paint(view);
    this.headPainter.paint(view);
    const span = this.t1 - this.t0;
    this.parts.range.textContent = `${duration(span)} of ${duration(this.total)}`;
    this.parts.range.title = "What is in view, of all that is drawn: a request's whole time and a hundredth of it on both sides";
    this.stats = { drawMs: performance.now() - began, sharp, at: performance.now() };
    if (!this.firstSeen && chunks.some((chunk) => chunk.bars)) this.firstSeen = performance.now();
    if (sharp && !this.firstSharp) this.firstSharp = performance.now();
  }

  arrived() {
    const done = !this.chunks.running, { early } = this.chunks;
    this.parts.busy.style.visibility = done && !early ? "hidden" : "visible";
    this.parts.busy.textContent = early ? `reading, ${Math.floor(early.read * 100)} % so far` : "loading";
    this.parts.error.textContent = done && this.chunks.error ? `Could not load: ${this.chunks.error}. Reload the page to try again.` : "";
    this.draw();
    if (!done) return;
    clearTimeout(this.telling);
    this.telling = setTimeout(() => this.tell(), 250);
    if (early && !this.chunks.error) {
      clearTimeout(this.again);
      this.again = setTimeout(() => this.want(), AGAIN_MS);
    } else if (!this.chunks.whole() && !this.chunks.error) {
      this.chunks.want(0, this.total, this.chunks.level(this.total / (this.width * this.ratio)));
    }
  }

  /** Keep the table in step, which screen readers read. */
  tell() {
    this.parts.table.replaceChildren(table(this.layout, this.shown && this.shown[this.shown.length - 1], this.total));
  }

  async loadLines() {
    const key = `${Math.round(this.t0)}/${Math.round(this.t1)}`;
    if (!this.width || this.lineKey === key) return;
    this.lineKey = key;
    const from = BigInt(this.data.tracks.from_ns), since = from + BigInt(Math.round(this.t0)), until = from + BigInt(Math.round(this.t1));
    try {
      const answer = await ask(`${this.data.address}/lines?${this.data.query}&since_ns=${since}&until_ns=${until}&points=${LINE_POINTS}`);
      if (this.lineKey !== key) return;
      const had = this.layout.linesKey();
      if (answer.lines.length || !this.layout.lines.length) this.layout.lines = answer.lines;
      this.layout.marks = answer.marks;
      this.lineOrigin = Number(BigInt(answer.since_ns) - from);
      this.lineBucket = answer.bucket_ns;
      this.lineGap = Math.max(8, ...answer.lines.map((line) => (3 * (line.at[line.at.length - 1] - line.at[0])) / Math.max(line.at.length - 1, 1)));
      this.layout.place();
      if (had !== this.layout.linesKey()) labels(this);
      this.tell();
      this.draw();
    } catch {
      this.lineKey = null;
    }
  }

  /** What the request was in at each moment of the window, with a screen's width on both sides. */
  async loadPath() {
    const from = BigInt(this.data.tracks.from_ns), span = this.t1 - this.t0;
    const [since, until] = [Math.max(0, this.t0 - span), Math.min(this.total, this.t1 + span)].map((ns) => from + BigInt(Math.round(ns)));
    if (this.pathAsked) this.pathAsked.abort();
    this.pathAsked = new AbortController();
    try {
      this.path = await ask(`${this.data.address}/path?${this.data.query}&since_ns=${since}&until_ns=${until}`, this.pathAsked.signal);
      if (this.pathShown && !this.pathTold) this.pathLoaded();
      this.draw();
    } catch (error) {
      if (error.name !== "AbortError") this.parts.error.textContent = `Could not load the critical path: ${error.message}`;
    }
  }
}

/** How far each node's times may be off against the node that has the most bars: [low, high] to add to them. */
function clockBounds(tracks) {
  const bars = new Map();
  for (const group of tracks.groups) {
    for (const track of group.tracks) {
      for (const row of track.rows) bars.set(track.node, (bars.get(track.node) || 0) + row.bars);
    }
  }
  const reference = [...bars].sort((a, b) => b[1] - a[1]).map((each) => each[0])[0], bounds = new Map();
  for (const clock of tracks.clocks) {
    if (clock.other_node === reference) bounds.set(clock.node, { low: clock.low_ns, high: clock.high_ns, status: clock.status });
    if (clock.node === reference) bounds.set(clock.other_node, { low: -clock.high_ns, high: -clock.low_ns, status: clock.status });
  }
  return bounds;
}
