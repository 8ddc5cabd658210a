// Paints what lies over the rows: marks of throttling and errors, the critical path, clock bounds, the selection, the measure.

import { duration } from "./format.js";
import { said } from "./panel.js";

const FONT = "11px system-ui, -apple-system, 'Segoe UI', sans-serif";
/** Pixels that a stretch of the critical path needs before it is joined to the one before. */
const ROOM = 5;

export class Overlays {
  constructor(context) {
    this.context = context;
  }

  paint(view, visible) {
    if (view.clocks.size) this.clockErrors(view, visible);
    if (view.path.length) this.path(view);
    if (view.selected) this.selected(view);
    if (view.measured) this.measured(view);
    if (view.pointer !== null) this.pointer(view);
  }

  x(view, ns) {
    return ((ns - view.t0) / (view.t1 - view.t0)) * view.width;
  }

  /** When a GPU was throttled (hatched, between two readings) or failed (a diamond at the reading that told of it). */
  marks(view, marks, y, height, named) {
    const { context } = this, { theme } = view, texts = [];
    for (const mark of marks) {
      const from = this.x(view, mark.start_ns), to = Math.max(this.x(view, mark.end_ns), from + 2);
      if (to < 0 || from > view.width) continue;
      if (mark.kind === "throttled") {
        context.fillStyle = this.hatch(theme);
        context.fillRect(from, y + 1, to - from, named ? height - 2 : 4);
      } else this.diamond(view, Math.min(Math.max(to, 6), view.width - 6), y + (named ? height / 2 : 6));
      if (named && (mark.kind !== "throttled" || to - from > 60)) texts.push([mark, from, to]);
    }
    const taken = []; // Two causes often begin together: the second is named behind the first.
    for (const [mark, from, to] of texts) this.markText(view, mark, from, to, y + height / 2, taken);
  }

  markText(view, mark, from, to, y, taken) {
    const { context } = this, text = said(mark);
    context.font = FONT;
    context.textBaseline = "middle";
    const wide = context.measureText(text).width, left = free(taken, Math.max(from, 0) + 4, wide + 8);
    const x = mark.kind === "throttled" ? left : to + 9 + wide < view.width ? to + 9 : to - 9 - wide;
    if (mark.kind === "throttled") {
      if (wide + 8 > Math.min(to, view.width) - left) return;
      context.fillStyle = view.theme.background;
      context.fillRect(x - 2, y - 7, wide + 4, 14);
    }
    taken.push([x, x + wide + 8]);
    context.fillStyle = view.theme.text;
    context.fillText(text, x, y);
  }

  diamond(view, x, y) {
    const { context } = this;
    context.beginPath();
    for (const [right, down] of [[0, -6], [5.5, 0], [0, 6], [-5.5, 0]]) context.lineTo(x + right, y + down);
    context.closePath();
    context.fillStyle = view.theme.failed;
    context.fill();
    context.strokeStyle = view.theme.background;
    context.lineWidth = 1;
    context.stroke();
  }

  hatch(theme) {
    if (this.hatchOf === theme) return this.hatched;
    const tile = document.createElement("canvas"), part = tile.getContext("2d");
    tile.width = tile.height = 6;
    part.fillStyle = theme.throttledFaint;
    part.fillRect(0, 0, 6, 6);
    part.strokeStyle = theme.throttled;
    part.lineWidth = 1.6;
    for (const at of [-6, 0, 6]) {
      part.moveTo(at - 1, 7);
      part.lineTo(at + 7, -1);
    }
    part.stroke();
    this.hatchOf = theme;
    this.hatched = this.context.createPattern(tile, "repeat");
    return this.hatched;
  }

  /** What the request was in: a line along the rows, and down or up to the next where there is room to see it. */
  path(view) {
    const { context } = this, steps = new Path2D(), { background, text } = view.theme;
    let last = null;
    for (const [row, from, to] of view.path) {
      const item = view.layout.placeOf(row), start = this.x(view, from), end = this.x(view, to);
      if (!item || end < 0 || start > view.width) {
        last = null;
        continue;
      }
      const y = item.y - view.scroll + item.h - 3;
      if (last && Math.abs(start - last.x) < 1 && (end - start > ROOM || last.wide)) steps.lineTo(start, y);
      else steps.moveTo(start, y);
      steps.lineTo(Math.max(end, start + 0.5), y);
      last = { x: end, wide: end - start > ROOM };
    }
    for (const [colour, width] of [[background, 5], [text, 2.2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.stroke(steps);
    }
  }

  /** Bars of another node's clock stand within these bounds of where they are drawn. */
  clockErrors(view, visible) {
    const { context } = this;
    context.strokeStyle = view.theme.clock;
    context.lineWidth = 1.5;
    for (const item of visible) {
      const bound = item.kind === "row" && item.row.bars < 400 ? view.clocks.get(item.track.node) : null;
      if (!bound || this.x(view, view.t0 + bound.high - bound.low) < 2) continue;
      const y = item.y - view.scroll + item.h - 3.5;
      for (const ns of [item.row.first_ns, item.row.last_ns]) {
        const low = this.x(view, ns + bound.low), high = this.x(view, ns + bound.high);
        context.beginPath();
        context.moveTo(low, y);
        context.lineTo(high, y);
        for (const x of [low, high]) {
          context.moveTo(x, y - 3);
          context.lineTo(x, y + 3);
        }
        context.stroke();
      }
    }
  }

  selected(view) {
    const { context } = this, item = view.layout.byRow.get(view.selected.row);
    for (const link of view.links) this.arrow(view, item, link);
    if (!item) return;
    const start = this.x(view, view.selected.start), end = this.x(view, view.selected.end);
    context.strokeStyle = view.theme.text;
    context.lineWidth = 2;
    context.strokeRect(start - 1, item.y - view.scroll - 0.5, Math.max(end - start, 2) + 2, item.h);
  }

  /** An arrow from a launch to what it enqueued. */
  arrow(view, item, link) {
    const other = view.layout.byRow.get(link.row);
    if (!item || !other) return;
    const mine = [view.selected.lane === "launch" ? view.selected.end : view.selected.start, item];
    const theirs = [link.lane === "launch" ? link.end : link.start, other];
    const [[from, above], [to, below]] = link.lane === "kernel" ? [mine, theirs] : [theirs, mine];
    const x0 = this.x(view, from), x1 = this.x(view, to);
    const y0 = above.y - view.scroll + above.h / 2, y1 = below.y - view.scroll + below.h / 2;
    const { context } = this, bend = Math.max(24, Math.abs(x1 - x0) / 2);
    context.strokeStyle = context.fillStyle = view.theme.arrow;
    context.lineWidth = 1.6;
    context.beginPath();
    context.moveTo(x0, y0);
    context.bezierCurveTo(x0 + bend, y0, x1 - bend, y1, x1 - 5, y1);
    context.stroke();
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(x1 - 7, y1 - 4);
    context.lineTo(x1 - 7, y1 + 4);
    context.fill();
  }

  measured(view) {
    const { context } = this, [from, to] = view.measured.map((ns) => this.x(view, ns));
    const left = Math.min(from, to), width = Math.abs(to - from);
    context.fillStyle = view.theme.measure;
    context.fillRect(left, 0, width, view.height);
    context.strokeStyle = view.theme.accent;
    context.lineWidth = 1;
    context.strokeRect(left + 0.5, -1, width, view.height + 2);
    const label = duration(Math.abs(view.measured[1] - view.measured[0]));
    context.font = "bold 12px system-ui, sans-serif";
    const wide = context.measureText(label).width + 12, x = Math.max(2, Math.min(view.width - wide, left + (width - wide) / 2));
    context.fillStyle = view.theme.accent;
    context.fillRect(x, 4, wide, 20);
    context.fillStyle = "#fff";
    context.textBaseline = "middle";
    context.fillText(label, x + 6, 14.5);
  }

  pointer(view) {
    const x = Math.round(view.pointer) + 0.5;
    this.context.strokeStyle = view.theme.pointer;
    this.context.lineWidth = 1;
    this.context.beginPath();
    this.context.moveTo(x, 0);
    this.context.lineTo(x, view.height);
    this.context.stroke();
  }
}

/** The first place from `left` on where `wide` pixels are free of what is taken, [from, to] each. */
export function free(taken, left, wide) {
  for (const [from, to] of [...taken].sort((one, other) => one[0] - other[0])) {
    if (left < to && from < left + wide) left = to;
  }
  return left;
}
