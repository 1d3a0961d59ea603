"""Output of git commands in this repository."""

import subprocess


def output(*arguments: str) -> str | None:
    """Return the output of a git command, or None if git is missing or the command fails."""
    try:
        command = ["git", *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
