"""Microseconds with a decimal fraction → whole nanoseconds, without losing the fraction that the text holds.

A 64-bit float keeps a nanosecond up to about 2^43 µs. Kineto's newer traces stay below it by counting from
`baseTimeNanoseconds`; a trace in µs since 1970 *with* a fraction does not, so its digits are taken from the text.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

EXACT, ROUNDED, MICROSECOND = 1, 250, 1000
"""How far times may be off, in ns: told to the ns; rounded by a float of 2^50 µs; told in whole µs."""

_EXACT_US = float(1 << 43)
_LARGEST_US = 9_000_000_000_000_000
_TS = re.compile(rb'"ts"\s*:\s*"?(-?[0-9]+)(?:\.([0-9]+))?"?\s*[,}]')


def nanoseconds(values: list[Any]) -> tuple[Int64, Mask, int]:
    """Return ns of µs given as int, float or text, which are times at all, and how far these may be off (ns)."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        array = np.empty(0, object)
    if array.dtype.kind == "i" and len(array) == len(values):
        valid = np.abs(array) <= _LARGEST_US
        return np.where(valid, array, 0).astype(np.int64) * 1000, valid, MICROSECOND
    if array.dtype.kind == "f":
        return _from_floats(array)
    return _from_anything(values)


def _from_floats(array: NDArray[np.float64]) -> tuple[Int64, Mask, int]:
    valid = np.isfinite(array) & (np.abs(array) <= _LARGEST_US)
    array = np.where(valid, array, 0.0)
    whole = np.floor(array)
    # The whole part is exact; what the fraction lost is under half a nanosecond below 2^43 µs.
    found = whole.astype(np.int64) * 1000 + np.rint((array - whole) * 1000).astype(np.int64)
    if not (np.abs(array) < _EXACT_US).all():
        return found, valid, ROUNDED
    return found, valid, MICROSECOND if (array == whole).all() else EXACT


def _from_anything(values: list[Any]) -> tuple[Int64, Mask, int]:
    found, valid = np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    for row, value in enumerate(values):  # Only for files that mix texts and numbers.
        try:
            number = Decimal(str(value).strip())
        except InvalidOperation:
            continue
        if isinstance(value, bool) or not number.is_finite() or abs(number) > _LARGEST_US:
            continue
        found[row], valid[row] = int((number * 1000).to_integral_value()), True
    return found, valid, EXACT


def from_text(piece: bytes, rounded: Int64) -> Int64 | None:
    """Return the exact ns of every `"ts"` in `piece`, in order, or None where they cannot be told apart.

    `rounded` is what the floats gave, one for each event: it must agree within a microsecond everywhere.
    """
    found = _TS.findall(piece)
    if len(found) != len(rounded):
        return None
    exact = np.array([int(whole + (fraction + b"000")[:3]) for whole, fraction in found], np.int64)
    return exact if bool((np.abs(exact - rounded) <= 1000).all()) else None
