// Numbers as people read them. Times are nanoseconds from the scope's start; `span` is the width of what is on the screen.

const UNITS = [[1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]];

/** A duration with about four digits: 1.234 ms. */
export function duration(ns) {
  const size = Math.abs(ns);
  if (size >= 60e9) {
    const minutes = Math.floor(size / 60e9);
    return `${ns < 0 ? "-" : ""}${minutes} min ${((size - minutes * 60e9) / 1e9).toFixed(size < 600e9 ? 1 : 0)} s`;
  }
  const [unit, name] = UNITS.find(([each]) => size >= each) || [1, "ns"];
  const value = ns / unit;
  const digits = unit === 1 ? 0 : Math.max(0, 3 - Math.floor(Math.log10(Math.max(Math.abs(value), 1))));
  return `${value.toFixed(digits)} ${name}`;
}

/** A whole number of nanoseconds, digits grouped: 1 234 567 ns. */
export function exact(ns) {
  return `${BigInt(ns).toString().replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f")} ns`;
}

/** A time on the axis, in the unit that fits the width of the screen, so that labels in one view agree. */
export function axisTime(ns, step) {
  const reach = Math.max(Math.abs(ns), step);
  const [unit, name] = UNITS.find(([each]) => reach >= each * 0.999) || [1, "ns"];
  const digits = Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9));
  return `${(ns / unit).toFixed(Math.min(digits, 9))} ${name}`;
}

/** The step between labels: 1, 2 or 5 times a power of ten, at least `least`. */
export function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
  const factor = least / power;
  return Math.max(1, power * (factor > 5 ? 10 : factor > 2 ? 5 : factor > 1 ? 2 : 1));
}

/** A point in time as a clock shows it, to the microsecond. */
export function clock(originNs, offsetNs, zone) {
  const ns = BigInt(originNs) + BigInt(Math.round(offsetNs));
  const date = new Date(Number(ns / 1000000n));
  const micro = String(Number(ns % 1000000000n)).padStart(9, "0").slice(0, 6);
  const time = date.toLocaleTimeString("en-GB", { hour12: false, timeZone: zone === "UTC" ? "UTC" : undefined });
  return `${time}.${micro}${zone === "UTC" ? " UTC" : ""}`;
}

/** A name as it fits on a bar: a C++ function without what it returns and its namespaces, which all kernels share. */
export function short(name) {
  const end = name.search(/[<(]/), head = end < 0 ? name : name.slice(0, end);
  if (!/^[\w:~ ]+$/.test(head) || !head.includes("::")) return name.replace(/^void /, "");
  return head.slice(head.lastIndexOf("::") + 2) + (end < 0 ? "" : name.slice(end));
}

const LABELS = {
  "hw.gpu.utilization": ["any kernel runs", "1"], "hw.power": ["power", "W"], "hw.energy": ["power (energy rate)", "W"],
  "hw.temperature": ["temperature", "°C"], "hw.gpu.memory.usage": ["memory used", "By"], "hw.gpu.io": ["I/O", "By/s"],
};

/** A measure's title and unit. */
export function measure(metric, part, rate) {
  const known = LABELS[metric];
  if (metric === "warpline.gpu.pipe.active" && part === "sm") return ["SM activity", "1"];
  const title = known ? known[0] : metric.replace(/^warpline\.gpu\.|^hw\.gpu\.|^hw\./, "").replace(/[._]/g, " ")
    .replace("pcie", "PCIe").replace("nvlink", "NVLink");
  let unit = known ? known[1] : "";
  if (!known && /clock$|clock /.test(title)) unit = "Hz";
  else if (!known && /throughput/.test(title)) unit = "By/s";
  else if (!known && /active|utili[sz]ation|occupancy|bandwidth|ratio/.test(title)) unit = rate ? "By/s" : "1";
  else if (!known && /bytes|memory (free|reserved)/.test(title)) unit = rate ? "By/s" : "By";
  else if (!known && /power/.test(title)) unit = "W";
  return [part && part !== "general" ? `${title} · ${part}` : title, unit];
}

/** A measure's value with its unit. */
export function reading(value, unit) {
  if (unit === "1") return `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`;
  const scales = { By: "B", "By/s": "B/s", Hz: "Hz" };
  if (scales[unit]) {
    for (const [size, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= size) return `${(value / size).toPrecision(3)} ${prefix}${scales[unit]}`;
    }
  }
  return `${Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3)} ${scales[unit] || unit}`.trim();
}
