// Paints the rows: one line of pixels a row, copied down, so that the cost follows the screen and not the number of bars.

import { duration, reading, short } from "./format.js";
import { SIZE } from "./layout.js";
import { colour, ink } from "./palette.js";
import { Overlays } from "./paint_over.js";
import { together } from "./wire.js";

/** What is thin keeps this much of its colour: on a dark ground a colour needs more to be seen. */
const FAINTEST = { light: 0.34, dark: 0.5 };
/** A row with no more than one bar on so many pixels has room for each: what is thinner than `thin` is drawn at least `wide`,
 * and in its full colour. One dropped packet in ten seconds is what a person looks for. */
const ROOM = 24, FEW = { thin: 4, wide: 2 };
/** Bars that are not this request's steps keep this much of their colour. */
const NOT_OWN = 0.42;
/** Pixels without a reading from which on it is said. */
const SILENT = 110;
const FONT = "11px system-ui, -apple-system, 'Segoe UI', sans-serif";

export class RowPainter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.over = new Overlays(this.context);
  }

  /** Paint what is visible; `view` has width, height, ratio, scroll, t0, t1, chunks, layout, theme and what is marked. */
  paint(view) {
    const { context, canvas } = this, { ratio, theme } = view;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = theme.background;
    context.fillRect(0, 0, canvas.width, canvas.height);
    this.pixels = Math.max(1, canvas.width);
    this.scale = this.pixels / (view.t1 - view.t0);
    this.labels = [];
    const visible = view.layout.items.filter((item) => item.y + item.h > view.scroll && item.y < view.scroll + view.height);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const item of visible) {
      if (item.kind === "row") this.row(view, item);
      else if (item.kind === "group") this.group(view, item);
      else if (item.kind === "marks") this.over.marks(view, item.marks, item.y - view.scroll, item.h, true);
      else this.line(view, item);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.grid(view);
    context.font = FONT;
    context.textBaseline = "middle";
    for (const label of this.labels) this.text(label);
    this.over.paint(view, visible);
  }

  x(view, ns) {
    return ((ns - view.t0) * this.scale) / view.ratio;
  }

  grid(view) {
    const { context } = this;
    context.strokeStyle = view.theme.grid;
    context.lineWidth = 1;
    context.beginPath();
    for (const ns of view.ticks) {
      const x = Math.round(this.x(view, ns)) + 0.5;
      context.moveTo(x, 0);
      context.lineTo(x, view.height);
    }
    context.stroke();
  }

  /** One row: blend each bar into a line of pixels, finer chunks over coarser ones. */
  row(view, item) {
    const { pixels } = this, { theme, ratio } = view;
    const height = Math.round((item.h - 1) * ratio), y = Math.round((item.y - view.scroll) * ratio);
    const line = new Uint8ClampedArray(pixels * 4);
    let low = pixels, high = 0;
    view.chunks.forEach((chunk, order) => {
      const part = chunk.rows.get(item.row.id);
      if (view.chunks.length > 1 && order > 0) {
        const from = Math.max(0, Math.floor((chunk.start - view.t0) * this.scale));
        line.fill(0, from * 4, Math.max(from, Math.min(pixels, Math.ceil((chunk.end - view.t0) * this.scale))) * 4);
      }
      if (!part) return;
      const [first, last] = this.bars(view, item, chunk, part, line, order === view.chunks.length - 1);
      low = Math.min(low, first);
      high = Math.max(high, last);
    });
    if (low >= high) return;
    low = Math.max(0, low);
    high = Math.min(pixels, high);
    const image = this.context.createImageData(high - low, height);
    const words = new Uint32Array(image.data.buffer), source = new Uint32Array(line.buffer);
    const [red, green, blue] = theme.backgroundRgb;
    const empty = (255 << 24) | (blue << 16) | (green << 8) | red;
    for (let at = low; at < high; at++) words[at - low] = source[at] || empty;
    for (let copy = 1; copy < height; copy++) words.copyWithin(copy * (high - low), 0, high - low);
    this.context.putImageData(image, low, y);
  }

  bars(view, item, chunk, part, line, top) {
    const { pixels, scale } = this, { theme, ratio } = view;
    const base = (chunk.start - view.t0) * scale, unit = chunk.unit * scale;
    const first = firstBar(chunk, part, -base / unit), few = this.few(chunk, part, first, base, unit, ratio);
    let low = pixels, high = 0;
    for (let at = first; at < part.to; at++) {
      const start = base + chunk.x[at] * unit, width = chunk.w[at] * unit, end = start + width;
      if (start > pixels) break;
      if (end < 0) continue;
      const marked = few && width < FEW.thin * ratio;
      const [name, kind, own] = chunk.names[chunk.name[at]];
      const strength = this.strength(view, marked ? 1 : chunk.density[at] / 255, name, own);
      const rgb = colour(kind, name), whole = chunk.count[at] === 0, least = marked ? Math.round(FEW.wide * ratio) : 1;
      const from = Math.max(0, Math.floor(start)), to = Math.min(pixels, Math.max(from + least, Math.round(end)));
      const edge = whole && width > 4 && start >= 0 ? from : -1;
      for (let pixel = from; pixel < to; pixel++) {
        const word = pixel * 4, alpha = pixel === edge ? strength * 0.35 : strength;
        for (let part = 0; part < 3; part++) {
          line[word + part] = theme.backgroundRgb[part] + (rgb[part] - theme.backgroundRgb[part]) * alpha;
        }
        line[word + 3] = 255;
      }
      low = Math.min(low, from);
      high = Math.max(high, to);
      if (top && width > 44 * ratio) {
        const x = Math.max(start, 0) / ratio, y = item.y - view.scroll + item.h / 2, last = this.labels[this.labels.length - 1];
        if (last && last.y === y && last.end > x) last.end = x;  // This bar lies over that one's end.
        this.labels.push({
          x, end: Math.min(end, pixels) / ratio, y,
          text: whole ? short(name) : `${short(name)} ×${together(chunk.count[at]).toLocaleString("en")}`,
          ink: strength > 0.6 ? ink(rgb) : theme.text,
        });
      }
    }
    return [low, high];
  }

  /** Whether so few bars of a row are in view that each has room. */
  few(chunk, part, first, base, unit, ratio) {
    const most = this.pixels / (ROOM * ratio);
    let seen = 0;
    for (let at = first; at < part.to && seen <= most; at++) {
      const start = base + chunk.x[at] * unit;
      if (start > this.pixels) break;
      if (start + chunk.w[at] * unit >= 0) seen++;
    }
    return seen <= most;
  }

  strength(view, density, name, own) {
    let strength = Math.max(view.theme.dark ? FAINTEST.dark : FAINTEST.light, density);
    if (own === 2 && view.dimOthers) strength *= NOT_OWN;
    if (view.search && !name.toLowerCase().includes(view.search)) strength *= 0.16;
    return strength;
  }

  text(label) {
    const { context } = this, width = label.end - label.x - 8, most = Math.ceil(width / 3);
    let text = label.text.slice(0, most), whole = text.length === label.text.length;
    const wide = context.measureText(text).width;
    if (wide > width) {
      text = text.slice(0, Math.floor((text.length * width) / wide) - 1);
      whole = false;
    }
    if (!whole) text = `${text.trimEnd()}…`;
    if (text.length < 4 && !whole) return;
    context.fillStyle = label.ink;
    context.fillText(text, label.x + 4, label.y, width + 4);
  }

  /** A group's head: a band, and for a GPU what of it ran nothing. */
  group(view, item) {
    const { context } = this, y = item.y - view.scroll;
    context.fillStyle = view.theme.band;
    context.fillRect(0, y, view.width, item.h - 1);
    const marks = view.layout.marksOf(item.group);
    if (marks.length && (item.closed || item.group.gpu)) this.over.marks(view, marks, y, item.closed ? item.h - 1 : 12, false);
    const rows = item.group.tracks.flatMap((track) => track.rows.map((row) => [track.lane, row]));
    const wanted = item.group.gpu ? rows.filter(([lane]) => lane === "kernel") : item.closed ? rows : [];
    if (!wanted.length) return;
    const covered = this.coverage(view, wanted.map((each) => each[1]));
    if (!covered) return;
    const bar = item.closed ? item.h - 8 : 5, top = y + (item.closed ? 4 : item.h - 8);
    this.coverageBar(view, covered, top, bar, item.group.gpu);
    // Where not all was read, a gap tells nothing.
    if (item.group.gpu && view.chunks.every((chunk) => chunk.read === 1)) this.idle(view, covered, wanted.map((each) => each[1]), y, item.h);
  }

  /** How busy each pixel is over several rows, 0 to 1, at the finest level at hand; null before any chunk came. */
  coverage(view, rows) {
    if (!view.chunks.length) return null;
    const covered = new Float32Array(this.pixels);
    const chunk = view.chunks[view.chunks.length - 1];
    const base = (chunk.start - view.t0) * this.scale, unit = chunk.unit * this.scale;
    for (const row of rows) {
      const part = chunk.rows.get(row.id);
      if (!part) continue;
      for (let at = firstBar(chunk, part, -base / unit); at < part.to; at++) {
        const start = base + chunk.x[at] * unit, end = start + chunk.w[at] * unit;
        if (start > this.pixels) break;
        const from = Math.max(0, Math.floor(start)), to = Math.min(this.pixels, Math.max(from + 1, Math.ceil(end)));
        const busy = Math.max(0.25, chunk.density[at] / 255);
        for (let pixel = from; pixel < to; pixel++) covered[pixel] = Math.max(covered[pixel], busy);
      }
    }
    return covered;
  }

  coverageBar(view, covered, top, height, strong) {
    const { context } = this, [red, green, blue] = strong ? [0, 114, 178] : [128, 136, 146];
    for (let from = 0; from < covered.length; ) {
      const level = Math.ceil(covered[from] * 4);
      let to = from + 1;
      while (to < covered.length && Math.ceil(covered[to] * 4) === level) to++;
      if (level) {
        context.fillStyle = `rgba(${red},${green},${blue},${0.25 + level * 0.17})`;
        context.fillRect(from / view.ratio, top, (to - from) / view.ratio, height);
      }
      from = to;
    }
  }

  /** Name the gaps in which none of the GPU's streams ran anything, between its first and its last execution. */
  idle(view, covered, rows, y, height) {
    const { context } = this, pixel = (ns) => Math.round((ns - view.t0) * this.scale);
    const first = Math.max(0, pixel(Math.min(...rows.map((row) => row.first_ns))));
    const last = Math.min(covered.length, pixel(Math.max(...rows.map((row) => row.last_ns))));
    context.font = FONT;
    context.textBaseline = "middle";
    context.textAlign = "center";
    for (let at = first; at < last; at++) {
      if (covered[at] > 0) continue;
      let end = at;
      while (end < last && covered[end] === 0) end++;
      const width = (end - at) / view.ratio, x = at / view.ratio;
      if (width >= 3) {
        context.fillStyle = view.theme.idle;
        context.fillRect(x, y + 2, width, height - 11);
        const label = `GPU idle ≈ ${duration((end - at) / this.scale)}`;
        if (width > label.length * 6) {
          context.fillStyle = view.theme.idleText;
          context.fillText(label, x + width / 2, y + height / 2 - 1); // Below the hatch of a throttled GPU.
        }
      }
      at = end;
    }
    context.textAlign = "start";
  }

  /** A measure of a GPU: a filled line with its scale at the right. */
  line(view, item) {
    const { context } = this, { line } = item, top = item.y - view.scroll + 3, tall = item.h - 6;
    const most = item.unit === "1" ? 1 : Math.max(...line.value, 1e-9) * 1.05;
    const least = item.unit === "1" || item.unit === "By" ? 0 : Math.min(0, ...line.value);
    const height = (value) => top + tall - ((value - least) / (most - least || 1)) * tall;
    const place = (index) => this.x(view, view.lineOrigin + (line.at[index] + 0.5) * view.lineBucket);
    context.fillStyle = view.theme.band;
    context.fillRect(0, top, view.width, tall);
    context.beginPath();
    let begun = null;
    for (let index = 0; index < line.at.length; index++) {
      const x = place(index), gap = index && line.at[index] - line.at[index - 1] > view.lineGap;
      if (begun === null || gap) {
        if (begun !== null) context.lineTo(place(index - 1), top + tall);
        context.moveTo(x, top + tall);
        context.lineTo(x, height(line.value[index]));
        begun = x;
      } else context.lineTo(x, height(line.value[index]));
    }
    if (begun !== null) context.lineTo(place(line.at.length - 1), top + tall);
    context.fillStyle = "rgba(0,158,115,0.22)";
    context.fill();
    context.strokeStyle = "rgb(0,158,115)";
    context.lineWidth = 1.2;
    context.stroke();
    for (const [from, to] of silences(view, line)) this.silence(view, this.x(view, from), this.x(view, to), top + tall / 2);
    const text = item.unit === "1" ? "0 to 100 %" : `max ${reading(Math.max(...line.value), item.unit)}`;
    this.scaleText(view, text, top);
  }

  /** Say in an empty stretch that nothing was read there: it is not a zero. */
  silence(view, from, to, y) {
    const { context } = this;
    if (to - from < SILENT) return;
    context.font = FONT;
    context.textBaseline = "middle";
    context.textAlign = "center";
    context.fillStyle = view.theme.faint;
    context.fillText("no readings", (from + to) / 2, y);
    context.textAlign = "start";
  }

  /** What a line's scale stands for. */
  scaleText(view, text, top) {
    const { context } = this;
    context.font = "10px system-ui, sans-serif";
    context.textBaseline = "top";
    const wide = context.measureText(text).width + 6;
    context.fillStyle = view.theme.background;
    context.globalAlpha = 0.75;
    context.fillRect(view.width - wide, top, wide, 12);
    context.globalAlpha = 1;
    context.fillStyle = view.theme.text;
    context.fillText(text, view.width - wide + 3, top + 1);
  }

}

/** Where a line has no reading for longer than three of its intervals: [from, to] in ns, its end to the view's end among them. */
export function silences(view, line) {
  if (line.at.length < 3) return [];  // Of fewer, how far apart they are is not known.
  const ends = [...line.at.slice(1), (view.t1 - view.lineOrigin) / view.lineBucket - 0.5];
  return line.at.map((at, index) => [at, ends[index]]).filter(([at, end]) => end - at > view.lineGap)
    .map((each) => each.map((at) => view.lineOrigin + (at + 0.5) * view.lineBucket));
}

const SCANNED = 4096;

/** The first bar of a row that may reach past position `from`. Bars stand by start; where they overlap, a wide one may begin
 * far before: a row of few bars is looked through from its beginning. */
export function firstBar(chunk, part, from) {
  if (from <= 0 || part.to - part.from < SCANNED) return part.from;
  let low = part.from, high = part.to;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (chunk.x[middle] < from) low = middle + 1;
    else high = middle;
  }
  return Math.max(part.from, low - 1);
}
