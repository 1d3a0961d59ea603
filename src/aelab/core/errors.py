"""What a user can mend: reported as one sentence, never as a traceback."""


class UserError(Exception):
    """Something outside the code is wrong: a parameter, a file, a source of data, a disk or a device.

    The message is written for the user: what is wrong, where, and what to do.
    """


class DamagedFile(UserError):  # noqa: N818 - what the file is
    """A file is not what was written."""
