"""Blocks of code in Markdown."""

import re
from collections.abc import Iterator
from typing import NamedTuple


class Block(NamedTuple):
    """A block of code, with the paragraph above it."""

    language: str
    argument: str
    code: str
    above: str


FENCE = re.compile(r"^```([^\s`]*) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> Iterator[Block]:
    for found in FENCE.finditer(text):
        above = text[: found.start()].strip().rpartition("\n\n")[2]
        yield Block(found[1], found[2], found[3], above)
