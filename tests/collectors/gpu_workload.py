"""What the watched process of the GPU tests does: `python -m tests.collectors.gpu_workload NAME`. Counts are prime."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

from demo.cuda_double.driver import Driver


def eager(driver: Driver) -> None:
    """499 kernels of one thread, every third through the CUDA runtime, with 31 copies and 13 memsets among them."""
    for i in range(499):
        launch = driver.launch_by_runtime if i % 3 == 0 else driver.launch
        launch(f"gemm_{i % 5}", 1_000 + 13 * i)
        if i % 16 == 0 and i // 16 < 31:
            driver.copy(4096 + i, to_host=i % 32 == 0)
        if i % 37 == 0 and i // 37 < 13:
            driver.clear(1 << 16)


def streams(driver: Driver) -> None:
    """499 kernels from 3 threads, each with a stream of its own."""
    run = [threading.Thread(target=_launch, args=(driver, count, n)) for n, count in enumerate((167, 173, 159))]
    _all(run)


def graphs(driver: Driver) -> None:
    """7 replays of a graph of 11 nodes whose durations change."""
    stream = driver.stream()
    graph = driver.capture([(f"attention_{n}", 2_000) for n in range(11)])
    for i in range(7):
        driver.set_durations(graph, [1_000 + 100 * i + n for n in range(11)])
        driver.replay(graph, stream)


def mixed(driver: Driver) -> None:
    """The eager launches from 3 threads, with 7 graph replays beside them."""
    counts = enumerate((167, 173, 159))
    _all([threading.Thread(target=_launch, args=(driver, count, n)) for n, count in counts] + [_thread(graphs, driver)])


def steps(driver: Driver) -> None:
    """61 steps of 5 kernels and one replay each, told to the library, and one of 7 that no request caused."""
    set_step = ctypes.CDLL(os.environ["CUDA_INJECTION64_PATH"]).warpline_set_step
    graph = driver.capture([("decode_attention", 3_000), ("decode_gemm", 4_000)])
    for step in range(61):
        set_step(ctypes.c_int64(step))
        for n in range(5):
            driver.launch(f"norm_{n}", 1_500)
        driver.replay(graph)
        driver.wait()
    set_step(ctypes.c_int64(-2))
    for n in range(7):
        driver.launch(f"norm_{n % 5}", 1_500)
    driver.wait()
    set_step(ctypes.c_int64(-1))


def governed(driver: Driver) -> None:
    """Steps of 5 kernels and a graph replay of 2, told to the library, until the input ends; then prints their number."""
    set_step = ctypes.CDLL(os.environ["CUDA_INJECTION64_PATH"]).warpline_set_step
    graph = driver.capture([("decode_attention", 30_000), ("decode_gemm", 40_000)])
    ends = threading.Thread(target=sys.stdin.read)
    ends.start()
    step = 0
    while ends.is_alive():
        set_step(ctypes.c_int64(step))
        for _ in range(5):
            driver.launch("norm", 200_000)
        driver.replay(graph)
        driver.wait()
        step += 1
    set_step(ctypes.c_int64(-1))
    sys.stdout.write(f"{step}\n")


def flood(driver: Driver) -> None:
    """3,001 kernels without pause, into a ring too small for them."""
    _launch(driver, 3001, 0)


def killed(driver: Driver) -> None:
    """97 kernels, and then SIGKILL."""
    _launch(driver, 97, 0)
    driver.wait_all()
    time.sleep(0.7)  # CUPTI hands its records over twice a second.
    os.kill(os.getpid(), signal.SIGKILL)


def cut(driver: Driver) -> None:
    """97 kernels, and SIGKILL before CUPTI has handed anything over."""
    _launch(driver, 97, 0)
    os.kill(os.getpid(), signal.SIGKILL)


def forked(driver: Driver) -> None:
    """53 kernels, a fork whose child launches 19 that no GPU will run, and 47 more."""
    _launch(driver, 53, 0)
    child = os.fork()
    if child == 0:
        for _ in range(19):
            driver.launch("never", 1_000)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    _launch(driver, 47, 1)


def waits(driver: Driver) -> None:
    """11 kernels, again whenever a line comes in, until the input ends."""
    for _ in sys.stdin:
        _launch(driver, 11, 0)
        driver.wait_all()
        sys.stdout.write("done\n")
        sys.stdout.flush()


def _launch(driver: Driver, count: int, number: int) -> None:
    stream = driver.stream()
    for i in range(count):
        driver.launch(f"gemm_{number}", 2_000 + 17 * i, stream)


def _thread(work: object, driver: Driver) -> threading.Thread:
    return threading.Thread(target=work, args=(driver,))  # type: ignore[arg-type]


def _all(threads: list[threading.Thread]) -> None:
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def _second_subscriber() -> None:
    """Hold CUPTI before CUDA starts, as a profiler does."""
    cupti = ctypes.CDLL("libcupti.so.12")
    assert cupti.cuptiSubscribe(ctypes.byref(ctypes.c_void_p()), ctypes.c_void_p(1), None) == 0


def main(name: str) -> None:
    if name == "second_subscriber":
        _second_subscriber()
        name = "streams"
    driver = Driver(runtime=True)
    globals()[name](driver)
    driver.wait_all()


if __name__ == "__main__":
    main(sys.argv[1])
