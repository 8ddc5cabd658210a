"""The state machine that reads heads and chunk sizes of HTTP/1 in the Linux kernel: a table, one look-up a byte.

A table, so that the program's loop has next to no branches, and the verifier walks each of its turns once. A state has an
effect, too: what its byte means for the number that is read (a length, a chunk's size) and for the status.
Grammar: RFC 9112 sections 2 to 7; names and codings in either case, carriage returns ignored.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.uint8]

STATES = 256
_RETURN, _NEWLINE, _COLON = 13, 10, 58
_DIGITS = range(48, 58)
_HEXADECIMAL = (*_DIGITS, *range(65, 71), *range(97, 103))
_LENGTH, _CODING, _CHUNKED = b"content-length", b"transfer-encoding", b"chunked"

# States, in the order in which a message meets them.
_REQUEST, _LINE, _SKIP = 1, 2, 3
_RESPONSE = 4  # and the next 9: the letters before a status
_LENGTH_NAME = 16  # and the next 13: so many letters of the name were met
_LENGTH_VALUE = 32
_CODING_NAME = 33  # and the next 16
_CODING_VALUE = 52  # and the next 6: so many letters of "chunked" were met
_SIZE, _EXTENSION, _TRAILER, _TRAILER_TEXT = 64, 65, 66, 67
_LENGTH_DIGIT, _CODED, _SIZE_DIGIT, _STATUS = 70, 71, 72, 73  # three of _STATUS, one a digit
_ENDED, _SIZE_ENDED, _TRAILER_LINE = 128, 129, 130
_EFFECTIVE = (_LENGTH_DIGIT, _CODED, _SIZE_DIGIT, _STATUS, _STATUS + 1, _STATUS + 2)
_SEEN_LENGTH, _SEEN_CHUNKED = 1, 2

SCANNER = np.dtype([("next", "u1", (STATES, 256)), ("effects", "<u4", (STATES,))])
"""struct scanner of http_state.bpf.h."""
DEFINES = {
    "SCAN_REQUEST": _REQUEST,
    "SCAN_RESPONSE": _RESPONSE,
    "SCAN_SIZE": _SIZE,
    "SCAN_TRAILER": _TRAILER,
    "SCAN_ENDED": _ENDED,
    "SCAN_SIZE_ENDED": _SIZE_ENDED,
    "SCAN_TRAILER_LINE": _TRAILER_LINE,
    "SCAN_LENGTH": _SEEN_LENGTH,
    "SCAN_CHUNKED": _SEEN_CHUNKED,
}
"""Names of states and of what was seen, as macros of the program. Lines end in states from SCAN_ENDED on."""


def scanner() -> np.void:
    """Return the whole machine as one SCANNER."""
    made = np.zeros(1, SCANNER)
    made["next"][0] = _table()
    made["effects"][0] = _effect()
    made["effects"][0, _LENGTH_DIGIT] = _effect(factor=10, weight=1, seen=_SEEN_LENGTH)
    made["effects"][0, _SIZE_DIGIT] = _effect(factor=16, weight=1)
    made["effects"][0, _CODED] = _effect(seen=_SEEN_CHUNKED)
    for place, status in enumerate((100, 10, 1)):
        made["effects"][0, _STATUS + place] = _effect(status=status)
    found: np.void = made[0]
    return found


def _effect(factor: int = 1, weight: int = 0, status: int = 0, seen: int = 0) -> int:
    return factor | weight << 8 | status << 16 | seen << 24


def _table() -> Table:
    """The next state for each state and byte."""
    made = np.zeros((STATES, 256), np.uint8)
    _every(made, _REQUEST, _REQUEST, _LINE)
    _every(made, _SKIP, _SKIP, _LINE)
    _every(made, _LINE, _SKIP, _ENDED)
    _status_line(made)
    _name(made, _LENGTH, _LENGTH_NAME, _LENGTH_VALUE)
    _name(made, _CODING, _CODING_NAME, _CODING_VALUE)
    for state in (_LENGTH_VALUE, _LENGTH_DIGIT):
        _every(made, state, _LENGTH_VALUE, _LINE)
        made[state, list(_DIGITS)] = _LENGTH_DIGIT
    _coding(made)
    _chunk_lines(made)
    return made


def _every(made: Table, state: int, otherwise: int, at_newline: int) -> None:
    """All bytes lead to `otherwise`, but the end of the line, and a return, which changes nothing."""
    made[state] = otherwise
    made[state, _NEWLINE] = at_newline
    made[state, _RETURN] = otherwise if state in _EFFECTIVE else state


def _letters(made: Table, state: int, letters: Iterable[int], following: int) -> None:
    for letter in letters:
        for either in bytes([letter]).lower() + bytes([letter]).upper():
            made[state, either] = following


def _status_line(made: Table) -> None:
    """`HTTP/1.1 200`: nine letters, three digits; anything may follow."""
    for place in range(9):
        _every(made, _RESPONSE + place, _RESPONSE + place + 1, _LINE)
    states = (_RESPONSE + 9, _STATUS, _STATUS + 1)
    for place, state in enumerate(states):
        _every(made, state, _SKIP, _LINE)
        made[state, list(_DIGITS)] = _STATUS + place
    _every(made, _STATUS + 2, _SKIP, _LINE)


def _name(made: Table, name: bytes, first: int, value: int) -> None:
    """The name of a header, from the start of a line to its colon."""
    made[_LINE, [name[0], name[0] - 32]] = first
    for place, letter in enumerate(name[1:]):
        _every(made, first + place, _SKIP, _LINE)
        _letters(made, first + place, [letter], first + place + 1)
    _every(made, first + len(name) - 1, _SKIP, _LINE)
    made[first + len(name) - 1, _COLON] = value


def _coding(made: Table) -> None:
    """The word `chunked` anywhere in the value; only its first letter can begin it anew."""
    for place, letter in enumerate(_CHUNKED):
        state = _CODING_VALUE + place
        _every(made, state, _CODING_VALUE, _LINE)
        _letters(made, state, _CHUNKED[:1], _CODING_VALUE + 1)
        _letters(made, state, [letter], state + 1 if place < len(_CHUNKED) - 1 else _CODED)
    _every(made, _CODED, _CODING_VALUE, _LINE)


def _chunk_lines(made: Table) -> None:
    for state in (_SIZE, _SIZE_DIGIT):
        _every(made, state, _EXTENSION, _SIZE_ENDED)
        made[state, list(_HEXADECIMAL)] = _SIZE_DIGIT
    _every(made, _EXTENSION, _EXTENSION, _SIZE_ENDED)
    _every(made, _TRAILER, _TRAILER_TEXT, _ENDED)
    _every(made, _TRAILER_TEXT, _TRAILER_TEXT, _TRAILER_LINE)
