"""Bounds on the offset of two nodes' clocks, in the scenarios of a drifting, wandering, slewed pair: do they hold the truth?

Node B is 1 ms ahead, drifts 12 ppm, wanders with the temperature and is slewed by NTP once, 30 µs/s for 40 s. Paths take 14
and 18 µs, with exponential queueing and Pareto tails. Beside it what Jaeger does: the middle of one request and its answer.
"""

from __future__ import annotations

import numpy as np

from correlator.joins.clock_offset import Points, forward, offset, reverse

SECONDS = 900.0
SCENARIOS = {"skb": (15e-6, 0.05), "syscall": (60e-6, 0.2)}
RATES = (0.2, 2.0, 20.0)


def theta(at: np.ndarray) -> np.ndarray:
    """Return B's clock minus A's, in s, at true times in s."""
    wander = 1e-6 * (300 / (2 * np.pi)) * (1 - np.cos(2 * np.pi * at / 300))
    return 1e-3 + 12e-6 * at + wander - 30e-6 * np.clip(at - 400, 0, 40)


def messages(rate: float, mean: float, tail: float, random: np.random.Generator) -> tuple[Points, Points]:
    def path(base: float) -> tuple[np.ndarray, np.ndarray]:
        sent = np.sort(random.random(random.poisson(rate * SECONDS)) * SECONDS)
        late = base + random.exponential(mean, len(sent))
        slow = random.random(len(sent)) < tail
        late[slow] += 1e-4 * (random.pareto(1.5, int(slow.sum())) + 1)
        return sent, sent + late

    sent, received = path(14e-6)
    upper = forward(_ns(sent), _ns(received + theta(received)))
    sent, received = path(18e-6)
    return upper, reverse(_ns(sent + theta(sent)), _ns(received))


def _ns(seconds: np.ndarray) -> np.ndarray:
    return np.asarray(np.round(seconds * 1e9), np.int64)


def run() -> None:
    random = np.random.default_rng(7)
    covered, widths, total, refused = 0, [], 0, 0
    for stamps, (mean, tail) in SCENARIOS.items():
        for rate in RATES:
            upper, lower = messages(rate, mean, tail, random)
            asked = np.arange(30.0, 870.0, 7.0)
            found = [offset(upper, lower, int(at * 1e9)) for at in asked]
            truth = theta(asked) * 1e9
            bound = [(f, t) for f, t in zip(found, truth, strict=True) if f.status in ("ok", "split")]
            inside = sum(f.low - 1 <= t <= f.high + 1 for f, t in bound)
            half = [(f.high - f.low) / 2e3 for f, _ in bound]
            error = [abs((f.high + f.low) / 2 - t) / 1e3 for f, t in bound]
            print(
                f"{stamps:<9}{rate:>5}/s  inside {inside}/{len(bound)} of {len(found)} asked"
                f"  half-width p50 {np.median(half):.1f} µs"
                f"  error p50 {np.median(error):.1f} p99 {np.percentile(error, 99):.1f} µs"
                f"  split {sum(f.status == 'split' for f in found)} lipschitz {sum(f.method == 'lipschitz' for f in found)}"
            )
            covered, total = covered + inside, total + len(bound)
            refused += len(found) - len(bound)
            widths += half
        there, back = (base + random.exponential(mean, 20000) for base in (14e-6, 18e-6))
        middle = np.median(np.abs(there - back)) / 2e-6
        print(f"{stamps:<9}one request's middle (Jaeger's way): error p50 {middle:.1f} µs, no bound")
    print(f"FIGURE clock.coverage_ratio {covered / total:.5f} 1 limit=0.999 asked={total + refused} refused={refused}")
    print(f"FIGURE clock.half_width_us {np.median(widths):.1f} us limit=50 p99={np.percentile(widths, 99):.1f}")


if __name__ == "__main__":
    run()
