"""Errors that a user can fix. Commands print only the error's message, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Raised for a problem outside the code: in a parameter, a file, a source of data, a disk or a device.

    The message tells the user what is wrong, where, and how to fix the problem.
    """


class DamagedFile(UserError):  # noqa: N818 - named after the state of the file
    """Raised for a file that has changed since the project wrote the file, or that the project did not write."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Ending of a message about an unknown name: "; did you mean …?", or an empty string if no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
