// Where groups, rows and lines stand on the page, which groups are collapsed or pinned, and in which order: a person's choice,
// kept in the browser.

import { measure } from "./format.js";

export const SIZE = { group: 24, row: 18, gap: 2, line: 34, label: 232, minimap: 40, axis: 26 };

export class Layout {
  constructor(tracks, store) {
    this.tracks = tracks;
    this.store = store;
    this.lines = [];
    this.marks = [];
    const kept = store.read();
    this.collapsed = new Set(kept.collapsed || []);
    this.pinned = kept.pinned || [];
    this.order = kept.order || [];
    this.place();
  }

  /** All groups in the order shown: pinned ones, then as moved, then as the server told them. */
  groups(pinned = this.pinned) {
    const all = [...this.tracks.groups, ...this.lineGroups()];
    const rank = (group, index) => {
      const pin = pinned.indexOf(group.id), moved = this.order.indexOf(group.id);
      return pin >= 0 ? pin - 1e6 : moved >= 0 ? moved : index + (this.order.length ? 1e3 : 0);
    };
    return all.map((group, index) => [rank(group, index), index, group])
      .sort((a, b) => a[0] - b[0] || a[1] - b[1]).map((each) => each[2]);
  }

  lineGroups() {
    const byGpu = new Map();
    const group = (of) => {
      const id = `lines:${of.node}:${of.gpu_uuid}:${of.gpu_instance ?? ""}`;
      const instance = of.gpu_instance === null ? "" : ` · MIG instance ${of.gpu_instance}`;
      const title = `GPU ${of.index ?? of.gpu_uuid}${instance} readings`;
      if (!byGpu.has(id)) byGpu.set(id, { id, title, hint: of.gpu_uuid, lines: [], marks: [], tracks: [], readings: true });
      return byGpu.get(id);
    };
    for (const line of this.lines) group(line).lines.push(line);
    for (const mark of this.marks) group(mark).marks.push(mark);
    return [...byGpu.values()];
  }

  /** What stands in the groups of readings: labels change with it. */
  linesKey() {
    return this.lineGroups().map((group) => `${group.id}/${group.lines.length}/${group.marks.length > 0}`).join();
  }

  /** When a group's GPU was held back or failed. */
  marksOf(group) {
    return group.readings ? group.marks : this.marks.filter((mark) => group.id.startsWith(`gpu:${mark.node}:${mark.gpu_uuid}:`));
  }

  /** Where a row stands, or, where its group is collapsed, its group's head. */
  placeOf(rowId) {
    return this.byRow.get(rowId) || this.headOf.get(rowId);
  }

  /** Work out every row's place; `items` are groups, rows and lines from top to bottom. */
  place() {
    let y = 0;
    this.items = [];
    this.headOf = new Map();
    for (const group of this.groups()) {
      const closed = this.isClosed(group);
      const head = { kind: "group", group, y, h: SIZE.group, closed };
      this.items.push(head);
      y += SIZE.group;
      if (closed) {
        for (const track of group.tracks) for (const row of track.rows) this.headOf.set(row.id, head);
        continue;
      }
      if (group.readings && group.marks.length) {
        this.items.push({ kind: "marks", group, marks: group.marks, y, h: SIZE.row });
        y += SIZE.row + SIZE.gap;
      }
      for (const track of group.tracks) {
        for (const row of track.rows) {
          this.items.push({ kind: "row", group, track, row, y, h: SIZE.row });
          y += SIZE.row + (row === track.rows[track.rows.length - 1] ? SIZE.gap : 0);
        }
      }
      for (const line of group.lines || []) {
        const [title, unit] = measure(line.metric, line.part, line.rate);
        this.items.push({ kind: "line", group, line, title, unit, y, h: SIZE.line });
        y += SIZE.line + SIZE.gap;
      }
    }
    this.height = y + 8;
    this.byRow = new Map(this.items.filter((item) => item.kind === "row").map((item) => [item.row.id, item]));
  }

  /** Readings of all GPUs but the first start closed: eight GPUs would bury the rest. */
  isClosed(group) {
    if (this.collapsed.has(group.id)) return true;
    if (this.collapsed.has(`open:${group.id}`)) return false;
    if (group.id === "spans") return false;
    return Boolean(group.readings) && group.id !== this.lineGroups()[0].id;
  }

  toggle(group, closed = !this.isClosed(group)) {
    this.collapsed.delete(group.id);
    this.collapsed.delete(`open:${group.id}`);
    this.collapsed.add(closed ? group.id : `open:${group.id}`);
    this.changed();
  }

  toggleAll() {
    const groups = this.groups(), closed = groups.some((group) => !this.isClosed(group));
    for (const group of groups) this.toggle(group, closed);
  }

  pin(group) {
    this.pinned = this.pinned.includes(group.id) ? this.pinned.filter((id) => id !== group.id) : [...this.pinned, group.id];
    this.changed();
  }

  /** Move a group past its neighbour; those that are pinned stand apart, and go back to where they were when unpinned. */
  move(group, by) {
    this.pinned = this.pinned.filter((id) => id !== group.id);
    const all = this.groups([]).map((each) => each.id), free = all.filter((id) => !this.pinned.includes(id));
    const at = free.indexOf(group.id), past = free[Math.min(free.length - 1, Math.max(0, at + by))];
    this.order = all.filter((id) => id !== group.id);
    this.order.splice(past === group.id ? all.indexOf(group.id) : this.order.indexOf(past) + (by > 0 ? 1 : 0), 0, group.id);
    this.changed();
  }

  changed() {
    this.place();
    this.store.write({ collapsed: [...this.collapsed], pinned: this.pinned, order: this.order });
  }

  at(y) {
    return this.items.find((item) => y >= item.y && y < item.y + item.h);
  }
}

/** What a person chose, in the browser's own storage; without one (a private window) it lasts as long as the page. */
export class Choices {
  constructor(key) {
    this.key = key;
  }

  read() {
    try {
      return JSON.parse(localStorage.getItem(this.key)) || {};
    } catch {
      return {};
    }
  }

  write(value) {
    try {
      localStorage.setItem(this.key, JSON.stringify(value));
    } catch {
      // Nothing to do: the choice holds until the page is left.
    }
  }
}
