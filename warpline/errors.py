"""What can go wrong that a person can put right.

A message reads *where: what is, with the value; what to do*, in lower case. "Cannot run here" is not an error but a
sentence that `check()` returns; a bad record is a counted loss; a bug keeps its own exception and ends with exit code 3.
"""

from __future__ import annotations


def plain(error: BaseException) -> str:
    """Return what an error says, without the number and path that Python puts around it: a message says *where* itself."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)


class WarplineError(Exception):
    """Base of every error that the command line shows without a traceback."""

    exit_code = 1


class SettingsError(WarplineError):
    """A setting is unknown, or its value is not of its type."""

    exit_code = 2


class SchemaError(WarplineError):
    """A table, column, view or batch is not what the declarations say."""


class StoreError(WarplineError):
    """The correlator, its spool or its database cannot do what was asked."""


class SourceError(WarplineError):
    """A source, or a recording given to one, cannot be read."""
