"""What a user can mend: reported as one sentence, never as a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something outside the code is wrong: a parameter, a file, a source of data, a disk or a device.

    The message is written for the user: what is wrong, where, and what to do.
    """


class DamagedFile(UserError):  # noqa: N818 - what the file is
    """A file is not what was written."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the known one that is close to it, if one is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
