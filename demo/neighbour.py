"""A second process on the GPU: training steps without pause, by nobody whom Warpline could ask whose they are.

Run by `demo.incidents`: `python -m demo.neighbour`, until it is ended.
"""

from __future__ import annotations

from demo.cuda_double.driver import Driver

_FORWARD_NS, _BACKWARD_NS, _UPDATE_NS = 12_000_000, 24_000_000, 4_000_000


def main() -> None:
    """Launch one training step after the other, each waited for."""
    driver = Driver()
    stream = driver.stream()
    while True:
        driver.launch("forward_kernel", _FORWARD_NS, stream)
        driver.launch("backward_kernel", _BACKWARD_NS, stream)
        driver.launch("optimizer_kernel", _UPDATE_NS, stream)
        driver.wait(stream)


if __name__ == "__main__":
    main()
