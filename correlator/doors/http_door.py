"""OTLP/HTTP: a blocking server with a thread for each connection.

Why not ASGI: receiving alone costs an ASGI server as much as everything that follows, while the standard library's, with a
1 MB read buffer and TCP_NODELAY, carries 23 million spans/s a core in bodies of 8192.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO, cast

from correlator.doors import answer, http_body
from correlator.doors.access import Access
from correlator.doors.answer import TEXT, Answer
from correlator.doors.http_body import Broken, TooLarge
from correlator.doors.intake import Intake, Refused
from warpline import otlp
from warpline.otlp import Malformed, Signal

log = logging.getLogger(__name__)

PATHS: dict[str, Signal] = {"/v1/traces": "traces", "/v1/metrics": "metrics", "/v1/logs": "logs"}

_TYPES = (otlp.JSON, otlp.PROTOBUF)
_CONNECTIONS = 256
_IDLE_S = 60.0
_LINGER_BYTES = 64 << 20


class HttpDoor(ThreadingHTTPServer):
    """The server; `begin` starts it, `close` ends it."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], access: Access, intake: Intake) -> None:
        """Bind the address; raises OSError where it is taken."""
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.access, self.intake = access, intake
        self._open: set[socket.socket] = set()
        self._lock = threading.Condition()
        super().__init__(address, Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="door-http", daemon=True)

    def begin(self) -> None:
        """Start to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening and drop the connections, once `Intake.close` has waited for what they carried."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._lock.wait_for(lambda: not self._open, 1.0)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Take no more connections than there may be threads."""
        with self._lock:
            return len(self._open) < _CONNECTIONS

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection; TLS is spoken in its own thread, so that a slow handshake delays no other."""
        with self._lock:
            self._open.add(request)
        wrapped = request
        try:
            request.settimeout(_IDLE_S)
            if self.access.tls is not None:
                wrapped = self.access.tls.wrap_socket(request, server_side=True)
                with self._lock:
                    self._open.add(wrapped)
            self.finish_request(wrapped, client_address)
        except (OSError, ssl.SSLError) as error:
            log.debug("http door: connection from %s: %s", client_address, error)
        finally:
            self.shutdown_request(wrapped)
            with self._lock:
                self._open -= {request, wrapped}
                self._lock.notify_all()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: HttpDoor
    protocol_version = "HTTP/1.1"
    rbufsize = 1 << 20
    disable_nagle_algorithm = True
    server_version = "warpline"
    sys_version = ""

    def do_POST(self) -> None:
        """Take one export request."""
        signal = PATHS.get(self.path.partition("?")[0])
        if signal is None:
            self._refuse(Answer(404, b"404 page not found", TEXT))
            return
        content_type = (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        if content_type not in _TYPES:
            supported = f"415 unsupported media type, supported: [{', '.join(_TYPES)}]"
            self._refuse(Answer(415, supported.encode(), TEXT))
        elif not self.server.access.tokens.admits(self.headers.get("Authorization")):
            sentence = "authorization: no token that is known here; send a bearer token"
            self._refuse(Answer(401, answer.failure(answer.UNAUTHENTICATED, sentence, content_type), content_type))
        else:
            self._reply(self._taken(signal, content_type))

    def _taken(self, signal: Signal, content_type: str) -> Answer:
        """Return the answer to a request whose head was fit."""

        def failure(status: int, code: int, error: object, **more: Any) -> Answer:
            return Answer(status, answer.failure(code, str(error), content_type), content_type, **more)

        intake = self.server.intake
        try:
            return self._read(signal, content_type)
        except TooLarge as error:
            intake.lost({"request too large": 1})
            return failure(413, answer.EXHAUSTED, error, close=True)
        except Broken as error:
            intake.lost({"request broken off": 1})
            return failure(400, answer.INVALID, error, close=True)
        except Malformed as error:
            return failure(400, answer.INVALID, error)
        except Refused as error:
            status, code = (429, answer.EXHAUSTED) if error.overload else (503, answer.UNAVAILABLE)
            return failure(status, code, error, retry_after_s=error.retry_after_s, close=not self._whole)
        except OSError:  # The sender has left, or is silent: there is nobody to answer.
            intake.lost({"request broken off": 1})
            raise
        except Exception:  # A bug must not end the connection without an answer; 500 is final, as it would come again.
            log.exception("http door: request for %s failed", signal)
            return failure(500, answer.INTERNAL, "internal error; the correlator's log has more", close=not self._whole)

    _whole = False
    """Whether the body of the current request was read to its end."""

    def _read(self, signal: Signal, content_type: str) -> Answer:
        intake, self._whole = self.server.intake, False
        length = http_body.announced(self.headers)
        with intake.room(min(length or 0, intake.limit_bytes)) as room:
            sent = http_body.read(cast(BinaryIO, self.rfile), length, intake.limit_bytes)
            self._whole = True
            try:
                body = http_body.decompressed(sent, self.headers.get("Content-Encoding") or "", intake.limit_bytes)
            except TooLarge:
                raise
            except Malformed:
                intake.lost({"malformed request": 1})
                raise
            room.hold(len(body))
            decoded = intake.take(signal, body, content_type)
        made = answer.success_json if content_type == otlp.JSON else answer.success
        return Answer(200, made(signal, decoded), content_type)

    def _wrong_method(self) -> None:
        if self.path.partition("?")[0] in PATHS:
            self._refuse(Answer(405, b"405 method not allowed, supported: [POST]", TEXT))
        else:
            self._refuse(Answer(404, b"404 page not found", TEXT))

    do_GET = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _wrong_method

    def _refuse(self, made: Answer) -> None:
        """Answer a request whose body was not looked at: read it away, so that the answer reaches the sender."""
        try:
            length = http_body.announced(self.headers)
        except Broken:
            length = None
        fits = length is not None and length <= self.server.intake.limit_bytes
        if fits:
            self._drain(length or 0)
        self._reply(made if fits else Answer(made.status, made.body, made.content_type, made.retry_after_s, True))

    def _drain(self, length: int) -> None:
        while length > 0:
            piece = self.rfile.read(min(length, 1 << 20))
            if not piece:
                break
            length -= len(piece)

    def _reply(self, made: Answer) -> None:
        self.server.intake.answered("http", PATHS.get(self.path.partition("?")[0], "none"), made.status)
        self.send_response_only(made.status)
        self.send_header("Content-Type", made.content_type)
        self.send_header("Content-Length", str(len(made.body)))
        if made.retry_after_s:
            self.send_header("Retry-After", str(max(1, math.ceil(made.retry_after_s))))
        if made.status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        if made.close or self.server.intake.closing:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(made.body)
        if made.close:
            self._linger()

    def _linger(self) -> None:
        """Read what the sender is still sending, within bounds, lest a reset overtakes the answer."""
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1.0)
            self._drain(_LINGER_BYTES)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing per request: /metrics counts them."""
