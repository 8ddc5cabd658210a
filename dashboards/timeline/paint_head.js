// Paints the head that stays in sight: the minimap of the whole, and the axis of what is on the screen.

import { axisTime, niceStep } from "./format.js";
import { SIZE } from "./layout.js";
import { colour } from "./palette.js";

/** Times of the axis's labels. */
export function ticks(t0, t1, width) {
  const step = niceStep((t1 - t0) / Math.max(width / 110, 1)), found = [];
  for (let ns = Math.ceil(t0 / step) * step; ns <= t1; ns += step) found.push(ns);
  found.step = step;
  return found;
}

export class HeadPainter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
  }

  paint(view) {
    const { context } = this;
    context.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
    context.fillStyle = view.theme.background;
    context.fillRect(0, 0, view.width, SIZE.minimap + SIZE.axis);
    this.minimap(view);
    this.axis(view);
  }

  minimap(view) {
    const { context } = this, { theme, total } = view, tall = SIZE.minimap - 6;
    context.fillStyle = theme.band;
    context.fillRect(0, 2, view.width, tall);
    if (view.whole) this.profile(view, tall);
    const x = (ns) => (ns / total) * view.width;
    for (const match of view.matches) {
      context.fillStyle = theme.accent;
      context.fillRect(x(match.start) - 0.5, 2, Math.max(1.5, x(match.end) - x(match.start)), 4);
    }
    const from = Math.max(0, x(view.t0)), to = Math.min(view.width, x(view.t1));
    context.fillStyle = theme.veil;
    context.fillRect(0, 2, from, tall);
    context.fillRect(to, 2, view.width - to, tall);
    context.strokeStyle = theme.accent;
    context.lineWidth = 1.5;
    context.strokeRect(from + 0.75, 2.75, Math.max(to - from - 1.5, 2), tall - 1.5);
  }

  /** How busy the GPUs were over the whole, or, without any, whatever there is; the most frequent class gives the colour. */
  profile(view, tall) {
    const key = `${view.width}/${view.whole.level}/${view.whole.read}/${view.theme.background}`;
    if (this.profileKey !== key) {
      this.columns = busy(view);
      this.profileKey = key;
    }
    for (let at = 0; at < this.columns.length; at++) {
      const column = this.columns[at];
      if (!column) continue;
      const height = Math.max(1, column.height * (tall - 3));
      this.context.fillStyle = `rgb(${column.rgb.join(",")})`;
      this.context.fillRect(at, 2 + tall - height, 1, height);
    }
  }

  axis(view) {
    const { context } = this, y = SIZE.minimap;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.fillStyle = view.theme.text;
    context.strokeStyle = view.theme.faint;
    context.lineWidth = 1;
    context.beginPath();
    for (const ns of view.ticks) {
      const x = Math.round(((ns - view.t0) / (view.t1 - view.t0)) * view.width) + 0.5;
      context.moveTo(x, y + SIZE.axis - 6);
      context.lineTo(x, y + SIZE.axis);
      const text = axisTime(ns, view.ticks.step), wide = context.measureText(text).width;
      context.fillText(text, x + wide + 6 < view.width ? x + 4 : x - wide - 4, y + SIZE.axis / 2);
    }
    context.moveTo(0, y + SIZE.axis - 0.5);
    context.lineTo(view.width, y + SIZE.axis - 0.5);
    context.stroke();
  }
}

function busy(view) {
  const { whole, total } = view, width = Math.ceil(view.width), columns = new Array(width).fill(null);
  let rows = view.layout.tracks.groups.filter((group) => group.gpu).flatMap((group) => group.tracks);
  if (!rows.length) rows = view.layout.tracks.groups.flatMap((group) => group.tracks);
  let most = 0;
  for (const track of rows) {
    for (const row of track.rows) {
      const part = whole.rows.get(row.id);
      if (!part) continue;
      for (let at = part.from; at < part.to; at++) {
        const start = ((whole.start + whole.x[at] * whole.unit) / total) * width;
        const end = start + ((whole.w[at] * whole.unit) / total) * width;
        const [name, kind] = whole.names[whole.name[at]];
        for (let pixel = Math.max(0, Math.floor(start)); pixel < Math.min(width, Math.max(end, start + 0.01)); pixel++) {
          const share = (Math.min(end, pixel + 1) - Math.max(start, pixel)) * (whole.density[at] / 255);
          const column = (columns[pixel] ||= { height: 0, best: 0, rgb: colour(kind, name) });
          column.height += share;
          if (share > column.best) Object.assign(column, { best: share, rgb: colour(kind, name) });
          most = Math.max(most, column.height);
        }
      }
    }
  }
  for (const column of columns) if (column) column.height /= most || 1;
  return columns;
}
