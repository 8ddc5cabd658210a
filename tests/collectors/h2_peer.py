"""Frames of HTTP/2 made by `hyperframe` and `hpack`, the reference that the collector's own reading is held against."""

from __future__ import annotations

from collections.abc import Iterable

from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
SETTINGS = SettingsFrame(0).serialize()
OK = [(":status", "200"), ("content-type", "application/grpc")]
TRAILER = [("grpc-status", "0"), ("grpc-message", "")]
Fields = Iterable[tuple[str, str]]


def asking(number: int, path: str = "/a/B", **more: str) -> list[tuple[str, str]]:
    """The fields of a request whose trace id is `number`."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "here"),
        ("content-type", "application/grpc"),
        ("traceparent", f"00-{number:032x}-{number:016x}-01"),
        ("x-request-id", f"r{number}"),
        *((name.replace("_", "-"), value) for name, value in more.items()),
    ]


class Peer:
    """One end's frames: its encoder's table lasts as long as its connection."""

    def __init__(self) -> None:
        self.encoder = Encoder()

    def head(self, stream: int, fields: Fields, *flags: str, parts: int = 1, padding: int = 0) -> bytes:
        """A header block in one HEADERS frame and `parts` - 1 CONTINUATIONs; flags are those of the HEADERS."""
        block = self.encoder.encode(list(fields))
        cuts = [len(block) * each // parts for each in range(parts + 1)]
        frames: list[Frame] = [HeadersFrame(stream, block[: cuts[1]], flags=list(flags))]
        if "PRIORITY" in flags:
            frames[0].depends_on, frames[0].stream_weight = 1, 7
        if padding:
            frames[0].flags.add("PADDED")
            frames[0].pad_length = padding
        frames += [ContinuationFrame(stream, block[cuts[each] : cuts[each + 1]]) for each in range(1, parts)]
        frames[-1].flags.add("END_HEADERS")
        return b"".join(frame.serialize() for frame in frames)

    def promise(self, stream: int, promised: int, fields: Fields) -> bytes:
        block = self.encoder.encode(list(fields))
        return bytes(PushPromiseFrame(stream, promised, block, flags=["END_HEADERS"]).serialize())


def data(stream: int, content: bytes, *flags: str, padding: int = 0) -> bytes:
    frame = DataFrame(stream, content, flags=list(flags))
    if padding:
        frame.flags.add("PADDED")
        frame.pad_length = padding
    return bytes(frame.serialize())


def reset(stream: int, code: int) -> bytes:
    return bytes(RstStreamFrame(stream, code).serialize())


def go_away(stream: int) -> bytes:
    return bytes(GoAwayFrame(0, stream).serialize())


def between() -> bytes:
    """Frames of the connection, not of a stream's exchange."""
    return bytes(PingFrame(0, b"8 bytes.").serialize() + WindowUpdateFrame(0, window_increment=77).serialize())
