// Chunks of bars: asked for, decoded, kept. The layout of the bytes is told in correlator/timeline/timeline_wire.py.

const MAGIC = 0x32544c57;
export const TILE = 512;
const PARTS = 8;
const MAX_TILES = 8;
const KEPT = 40;
/** How long an answer that shows only a part of the newest view is waited for. */
const PATIENCE_MS = 120;

/** Decode one chunk; times count from the scope's start, in ns. */
export function decode(buffer, first) {
  const head = new Uint32Array(buffer, 0, 6);
  if (head[0] !== MAGIC) throw new Error("the answer is not a timeline chunk");
  const [, bars, rows, length, level, read] = head;
  const bucket = 2 ** level;
  // Of a scope that is still being read comes all of it, as far as it is known.
  if (read) first = 0;
  let at = 24;
  const take = (kind, count) => {
    const part = new kind(buffer, at, count);
    at += part.byteLength;
    return part;
  };
  const wide = () => {
    const low = take(Uint8Array, bars), high = take(Uint8Array, bars), part = new Uint16Array(bars);
    for (let each = 0; each < bars; each++) part[each] = low[each] | (high[each] << 8);
    return part;
  };
  const ids = Array.from(take(BigUint64Array, rows), (each) => each.toString(16));
  const counts = take(BigUint64Array, rows);
  const busy = take(BigUint64Array, rows);
  const offsets = take(Uint32Array, rows + 1);
  const chunk = {
    level, start: first * TILE * bucket, unit: bucket / PARTS, bars, read: read ? (read - 1) / 1000 : 1,
    x: summed(wide()), w: wide(), name: wide(),
    density: take(Uint8Array, bars), count: take(Uint8Array, bars), bytes: buffer.byteLength, rows: new Map(),
  };
  chunk.names = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, at, length)));
  ids.forEach((id, index) => {
    chunk.rows.set(id, {
      from: offsets[index], to: offsets[index + 1], count: Number(counts[index]), busy: Number(busy[index]),
    });
  });
  return chunk;
}

/** Turn distances into positions, in place; 16 bits wrap as they did when they were told. */
function summed(distances) {
  for (let each = 1; each < distances.length; each++) distances[each] += distances[each - 1];
  return distances;
}

/** How many bars one drawn bar stands for. */
export function together(code) {
  return code === 0 ? 1 : Math.max(1, Math.round(2 ** ((code - 1) / 8)));
}

/** Keeps the chunks of one timeline and fetches what the screen needs; `changed` is called when there is more to draw. */
export class Chunks {
  constructor(address, query, total, changed) {
    this.address = address;
    this.query = query;
    this.total = total;
    this.changed = changed;
    this.kept = new Map();
    this.running = null;
    this.error = null;
    this.loads = 0;
    /** What there is of a scope that is still being read: coarse, and all of it. */
    this.early = null;
  }

  /** The level whose buckets are at most a device pixel wide. */
  level(nsPerPixel) {
    return Math.max(0, Math.floor(Math.log2(Math.max(nsPerPixel, 1))));
  }

  /** The kept chunks that show [t0, t1) best, coarse ones first; and whether the last one is all that is needed. */
  best(t0, t1, level) {
    const low = Math.max(t0, 0), high = Math.min(t1, this.total);
    const overlapping = [];
    for (const chunk of this.kept.values()) {
      if (chunk.level === level && chunk.start <= low && chunk.end >= high) return [[chunk], true];
      if (chunk.end > low && chunk.start < high) overlapping.push(chunk);
    }
    if (this.early) overlapping.push(this.early);
    overlapping.sort((a, b) => Math.abs(b.level - level) - Math.abs(a.level - level));
    return [overlapping.slice(-4), false];
  }

  /** Fetch what [t0, t1) needs, with a skirt on both sides where there is room. One request runs at a time; one whose answer
   * would not show the newest view, or that keeps it waiting, is given up for it. */
  want(t0, t1, level) {
    if (this.best(t0, t1, level)[1]) return;
    if (this.running) {
      this.next = [t0, t1, level];
      const { running } = this, misses = running.end <= t0 || running.start >= t1 || Math.abs(running.level - level) > 1;
      const serves = running.level === level && running.start <= Math.max(t0, 0) && running.end >= Math.min(t1, this.total);
      if (misses || (!serves && performance.now() - running.began > PATIENCE_MS)) running.abort.abort();
      return;
    }
    const width = TILE * 2 ** level, skirt = (t1 - t0) / 4, last = Math.ceil(this.total / width);
    let first = Math.max(0, Math.floor((t0 - skirt) / width));
    let end = Math.min(last, Math.ceil((t1 + skirt) / width));
    if (end - first > MAX_TILES) {
      first = Math.max(0, Math.floor(t0 / width));
      end = Math.min(last, Math.ceil(t1 / width));
    }
    end = Math.min(Math.max(end, first + 1), first + MAX_TILES);
    this.load(first, end - first, level);
  }

  async load(first, tiles, level) {
    const abort = new AbortController(), began = performance.now();
    const start = first * TILE * 2 ** level;
    this.running = { level, abort, began, start, end: start + tiles * TILE * 2 ** level };
    this.changed();
    try {
      const answer = await fetch(`${this.address}/chunk?${this.query}&level=${level}&first=${first}&tiles=${tiles}`, {
        signal: abort.signal,
      });
      if (!answer.ok) throw new Error(await said(answer));
      const chunk = decode(await answer.arrayBuffer(), first);
      this.early = chunk.read < 1 ? chunk : null;
      chunk.end = this.early ? this.total : chunk.start + tiles * TILE * 2 ** level;
      if (!this.early) this.keep(`${level}/${first}/${tiles}`, chunk);
      this.error = null;
      this.last = { ms: performance.now() - began, bytes: chunk.bytes, bars: chunk.bars };
      this.loads++;
    } catch (error) {
      if (error.name !== "AbortError") this.error = error.message;
    }
    this.running = null;
    const wanted = this.next;
    this.next = null;
    // The newest view goes first: whoever hears of the change may ask for more only where nothing is on its way.
    if (wanted && !this.error) this.want(...wanted);
    this.changed();
  }

  keep(key, chunk) {
    this.kept.delete(key);
    this.kept.set(key, chunk);
    for (const old of this.kept.keys()) {
      if (this.kept.size <= KEPT) break;
      const found = this.kept.get(old);
      if (!(found.start <= 0 && found.end >= this.total)) this.kept.delete(old);
      else this.keep(old, found);
    }
  }

  /** A chunk that shows the whole scope, for the minimap; none until one has come. */
  whole() {
    let found = this.early;
    for (const chunk of this.kept.values()) {
      if (chunk.start <= 0 && chunk.end >= this.total && (!found || found === this.early || chunk.level < found.level)) found = chunk;
    }
    return found;
  }

  forget() {
    this.kept.clear();
    if (this.running) this.running.abort.abort();
  }
}

/** Ask for JSON; an answer that is none is an error with the server's own sentence. */
export async function ask(address, signal) {
  const answer = await fetch(address, { signal });
  if (!answer.ok) throw new Error(await said(answer));
  return answer.json();
}

async function said(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return `the server answered ${answer.status}`;
  }
}
