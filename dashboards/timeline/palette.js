// Colours by what a bar is. Okabe and Ito's eight, which stay apart for every common colour blindness, and greys.

const CLASSES = {
  gemm: "#0072B2", attention: "#D55E00", communication: "#CC79A7", normalisation: "#009E73", elementwise: "#56B4E9",
  sampling: "#E69F00", memory: "#C9B700", graph: "#5B6B7B", sync: "#9AA5B1", other: "#8A8F98",
  request: "#3A6EA5", refused: "#E69F00", failed: "#C0392B", send: "#56B4E9", wait: "#9AA5B1", stream: "#009E73",
  queue: "#E69F00", prefill: "#D55E00", decode: "#0072B2", mixed: "#CC79A7", dummy: "#9AA5B1", recompute: "#C0392B",
  draft: "#56B4E9", compute: "#0072B2", compute_input: "#56B4E9", compute_output: "#009E73",
  launch: "#7A5195", connection: "#7F8C8D", resent: "#E69F00", flow: "#56B4E9", span: "#3A6EA5",
  runqueue: "#D55E00", futex: "#CC79A7", poll: "#9AA5B1", network: "#56B4E9", disk: "#E69F00", page_fault: "#C0392B", sleep: "#B9C0C8",
};
/** For names without a class of their own (host ranges, system calls): Paul Tol's muted colours, safe for the colour-blind too,
 * so that none of them looks like a class of the legend. */
const OTHERS = ["#332288", "#44AA99", "#882255", "#999933", "#117733", "#CC6677", "#AA4499", "#6699CC"];

/** What the legend says, in order, for those of the classes that are on the screen. */
export const LEGEND = [
  "gemm", "attention", "communication", "normalisation", "elementwise", "sampling", "memory", "graph", "other",
];

/** What the colours of an engine's steps and phases mean: class → in words. */
export const STEPS = { prefill: "prefill", decode: "decode", mixed: "prefill and decode in one step", queue: "queue", recompute: "recompute" };

const made = new Map();

/** The colour of a name's class as [r, g, b]; a class without one of its own gets one by its name, the same each time. */
export function colour(kind, name) {
  const key = CLASSES[kind] ? kind : `${kind}\u0000${name}`;
  let found = made.get(key);
  if (!found) {
    const hex = CLASSES[kind] || OTHERS[hash(name || kind) % OTHERS.length];
    found = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    made.set(key, found);
  }
  return found;
}

/** Dark or white, whichever contrasts more with a colour (WCAG 2, as `theme.py` has it). */
export function ink(rgb) {
  const [red, green, blue] = rgb.map((part) => (part <= 10 ? part / 3294.6 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.1916 ? "#111" : "#fff";
}

/** A CSS colour as [r, g, b]. */
export function rgb(css) {
  const hex = css.trim().match(/^#([0-9a-f]{6})/i);
  if (hex) return [0, 2, 4].map((at) => parseInt(hex[1].slice(at, at + 2), 16));
  const numbers = css.match(/[\d.]+/g);
  return numbers && numbers.length >= 3 ? numbers.slice(0, 3).map(Number) : [255, 255, 255];
}

function hash(text) {
  let value = 2166136261;
  for (let at = 0; at < text.length; at++) value = Math.imul(value ^ text.charCodeAt(at), 16777619);
  return value >>> 0;
}
