// Mouse, wheel and keyboard, turned into what a timeline can do.

import { SIZE } from "./layout.js";

const DRAG = 4;

/** Listen on the timeline's parts; returns a function that stops listening. */
export function listen(timeline) {
  const { box, body, head, scroller } = timeline.parts;
  const stops = [];
  const on = (node, kind, action, options) => {
    node.addEventListener(kind, action, options);
    stops.push(() => node.removeEventListener(kind, action, options));
  };
  on(scroller, "wheel", (event) => wheel(timeline, event), { passive: false });
  on(head, "wheel", (event) => wheel(timeline, event, true), { passive: false });
  on(scroller, "scroll", () => timeline.draw(), { passive: true });
  on(body, "pointerdown", (event) => press(timeline, event));
  on(body, "pointermove", (event) => move(timeline, event));
  on(body, "pointerup", (event) => release(timeline, event));
  on(body, "pointercancel", () => (timeline.held = null));
  on(body, "pointerleave", () => timeline.leave());
  on(body, "dblclick", (event) => timeline.zoomTo(event.offsetX, event.offsetY));
  on(head, "pointerdown", (event) => grab(timeline, event));
  on(head, "pointermove", (event) => stretch(timeline, event));
  on(head, "pointerup", (event) => drop(timeline, event));
  on(box, "keydown", (event) => key(timeline, event));
  return () => stops.forEach((stop) => stop());
}

function wheel(timeline, event, always = false) {
  const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
  const step = (event.deltaX || event.deltaY) * (event.deltaMode ? 16 : 1);
  if (event.ctrlKey || event.metaKey || (always && !sideways)) timeline.zoom(Math.exp(Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 120) * 0.003), event.offsetX);
  else if (sideways) timeline.pan(step);
  else return;
  event.preventDefault();
}

function press(timeline, event) {
  if (event.button !== 0) return;
  timeline.parts.box.focus({ preventScroll: true });
  timeline.held = { x: event.offsetX, y: event.offsetY, last: event.offsetX, lastY: event.offsetY, measure: event.shiftKey, moved: false };
  timeline.parts.body.setPointerCapture(event.pointerId);
}

function move(timeline, event) {
  const { held } = timeline;
  timeline.pointTo(event.offsetX, event.offsetY);
  if (!held) return;
  if (Math.abs(event.offsetX - held.x) + Math.abs(event.offsetY - held.y) > DRAG) held.moved = true;
  if (!held.moved) return;
  if (held.measure) timeline.measure(held.x, event.offsetX, false);
  else {
    timeline.pan(held.last - event.offsetX);
    timeline.parts.scroller.scrollTop += held.lastY - event.offsetY;
  }
  held.last = event.offsetX;
  held.lastY = event.offsetY;
}

function release(timeline, event) {
  const { held } = timeline;
  timeline.held = null;
  if (!held) return;
  if (!held.moved) timeline.click(event.offsetX, event.offsetY);
  else if (held.measure) timeline.measure(held.x, event.offsetX, true);
}

/** In the head: the minimap's window is dragged or drawn anew, on the axis a stretch to zoom to is drawn. */
function grab(timeline, event) {
  if (event.button !== 0) return;
  timeline.parts.box.focus({ preventScroll: true });
  const mini = event.offsetY < SIZE.minimap;
  const ns = mini ? timeline.minimapTime(event.offsetX) : timeline.time(event.offsetX);
  const all = timeline.t1 - timeline.t0 > timeline.total * 0.98;
  const inside = mini && !all && ns > timeline.t0 && ns < timeline.t1;
  timeline.stretched = { mini, from: ns, x: event.offsetX, inside, t0: timeline.t0, t1: timeline.t1 };
  timeline.parts.head.setPointerCapture(event.pointerId);
}

function stretch(timeline, event) {
  const { stretched } = timeline;
  if (!stretched) return;
  const ns = stretched.mini ? timeline.minimapTime(event.offsetX) : timeline.time(event.offsetX);
  if (stretched.inside) timeline.show(stretched.t0 + ns - stretched.from, stretched.t1 + ns - stretched.from);
  else if (Math.abs(event.offsetX - stretched.x) > DRAG) {
    stretched.to = ns;
    if (stretched.mini) timeline.show(Math.min(stretched.from, ns), Math.max(stretched.from, ns));
    else timeline.measure(stretched.x, event.offsetX, false);
  }
}

function drop(timeline, event) {
  const { stretched } = timeline;
  timeline.stretched = null;
  if (!stretched || stretched.inside) return;
  if (stretched.to === undefined) {
    if (stretched.mini) {
      const half = (timeline.t1 - timeline.t0) / 2, ns = timeline.minimapTime(event.offsetX);
      timeline.show(ns - half, ns + half);
    }
  } else if (!stretched.mini) {
    timeline.clearMeasure();
    timeline.show(Math.min(stretched.from, stretched.to), Math.max(stretched.from, stretched.to));
  }
}

function key(timeline, event) {
  if (event.target.tagName === "INPUT") {
    if (event.key === "Escape") timeline.escape();
    else if (event.key === "Enter") timeline.nextMatch(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") timeline.parts.box.focus({ preventScroll: true });
    event.stopPropagation();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const width = timeline.width, at = timeline.pointer ?? width / 2;
  const action = {
    w: () => timeline.zoom(0.7, at), s: () => timeline.zoom(1 / 0.7, at), "+": () => timeline.zoom(0.7, at), "-": () => timeline.zoom(1 / 0.7, at),
    a: () => timeline.pan(-width * 0.15), d: () => timeline.pan(width * 0.15),
    arrowleft: () => timeline.pan(-width * 0.15), arrowright: () => timeline.pan(width * 0.15),
    arrowup: () => (timeline.parts.scroller.scrollTop -= 60), arrowdown: () => (timeline.parts.scroller.scrollTop += 60),
    0: () => timeline.show(0, timeline.total), f: () => timeline.fitSelected(), "/": () => timeline.parts.search.focus(),
    enter: () => timeline.nextMatch(event.shiftKey ? -1 : 1), c: () => timeline.collapseAll(), t: () => timeline.toggleTable(), p: () => timeline.togglePath(),
    "?": () => timeline.toggleHelp(), escape: () => timeline.escape(),
  }[event.key.toLowerCase()];
  if (!action) return;
  if (event.target.tagName === "BUTTON" && event.key === "Enter") return;
  action();
  event.preventDefault();
  event.stopPropagation();
}
