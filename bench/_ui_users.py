"""Ten people who zoom in one timeline at once: `python -m bench._ui_users JSON` prints how long each chunk took, in ms."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import urllib3

USERS, ZOOMS = 10, 25
TILE = 512


def main(asked: dict[str, Any]) -> None:
    """Zoom as `USERS` people, each with a connection of their own, and print how long each chunk took, in ms."""
    pool = urllib3.PoolManager(maxsize=USERS, headers={"accept-encoding": "gzip"})
    with ThreadPoolExecutor(USERS) as people:
        found = people.map(lambda user: _zoom(pool, asked, user), range(USERS))
        print(json.dumps([took for each in found for took in each]))


def _zoom(pool: urllib3.PoolManager, asked: dict[str, Any], user: int) -> list[float]:
    random = np.random.default_rng(user)
    took = []
    for _ in range(ZOOMS):
        width = asked["total"] * 10 ** random.uniform(-3.5, 0)
        level = max(0, int(math.log2(width / asked["width"])))
        first = int(random.uniform(0, asked["total"] - width) / (TILE << level))
        began = time.perf_counter()
        answer = pool.request(
            "GET", f"{asked['address']}/wl/chunk?{asked['query']}&level={level}&first={first}&tiles=4"
        )
        took.append((time.perf_counter() - began) * 1000)
        if answer.status != 200:
            raise RuntimeError(f"chunk: status {answer.status}: {answer.data[:200]!r}")
    return took


def server_seconds() -> float:
    """Return the CPU time of this process, which holds the correlator, and of its children that still run: the dashboard."""
    own = sum(os.times()[:2])
    tick = os.sysconf("SC_CLK_TCK")
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children", encoding="ascii") as children:
            for child in children.read().split():
                own += _seconds(int(child), tick)
    return own


def _seconds(process: int, tick: int) -> float:
    """Return the CPU time of a process, 0 of a browser's, which zooms by itself."""
    with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as stat:
        head, _, fields = stat.read().rpartition(")")
    if not head.partition("(")[2].startswith("python"):
        return 0.0
    user, system = fields.split()[11:13]
    return (int(user) + int(system)) / tick


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
