"""The API server's end of the engine's sockets: sends requests, hands each one's outputs to whoever waits for them."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from demo.engine.wire import ABORT, ADD, UTILITY, EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
from warpline.children import with_parent


class EngineDied(RuntimeError):
    """The engine process has ended."""


class EngineClient:
    """One engine process, and the sockets to it."""

    def __init__(self, directory: Path) -> None:
        """Bind the sockets in `directory`; `start` starts the engine."""
        self._context = zmq.asyncio.Context()
        self._input = self._context.socket(zmq.ROUTER)
        self._output = self._context.socket(zmq.PULL)
        self._addresses = [f"ipc://{directory}/{name}" for name in ("in", "out")]
        self._input.bind(self._addresses[0])
        self._output.bind(self._addresses[1])
        self._queues: dict[str, asyncio.Queue[EngineCoreOutput]] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(EngineCoreOutputs)
        self._engine = b""
        self.process: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the engine and wait until it says that it is ready."""
        command = [sys.executable, "-m", "demo.engine.core", *self._addresses]
        self.process = subprocess.Popen(with_parent(command))
        while not await self._input.poll(200):
            self._check()
        self._engine, _ = await self._input.recv_multipart()
        self._task = asyncio.create_task(self._receive())

    def _check(self) -> None:
        if self.process is None or self.process.poll() is not None:
            raise EngineDied(f"engine: ended with code {self.process and self.process.returncode}; see its log")

    async def _receive(self) -> None:
        while True:
            outputs = self._decoder.decode(await self._output.recv())
            for each in outputs.outputs:
                queue = self._queues.get(each.request_id)
                if queue is not None:
                    queue.put_nowait(each)
            answer = outputs.utility_output
            waiting = self._calls.pop(answer.call_id, None) if answer else None
            if answer and waiting is not None and not waiting.done():
                waiting.set_result(answer)

    async def generate(self, request: EngineCoreRequest) -> AsyncIterator[EngineCoreOutput]:
        """Send a request and yield what each step gives it; leaving early aborts it."""
        self._check()
        queue = self._queues[request.request_id] = asyncio.Queue()
        finished = False
        try:
            await self._input.send_multipart([self._engine, ADD, self._encoder.encode(request)])
            while not finished:
                output = await queue.get()
                finished = output.finish_reason is not None
                yield output
        finally:
            del self._queues[request.request_id]
            if not finished:
                abort = self._encoder.encode([request.request_id])
                await self._input.send_multipart([self._engine, ABORT, abort])

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call one of the engine's own methods; raise ValueError with its words where it refuses."""
        self._check()
        number = next(self._numbers)
        future = self._calls[number] = asyncio.get_running_loop().create_future()
        payload = self._encoder.encode([0, number, method, list(arguments)])
        await self._input.send_multipart([self._engine, UTILITY, payload])
        answer = await asyncio.wait_for(future, 10)
        if answer.failure_message:
            raise ValueError(answer.failure_message)
        return answer.result

    async def stop(self) -> None:
        """End the engine."""
        if self._task is not None:
            self._task.cancel()
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._context.destroy(linger=0)
