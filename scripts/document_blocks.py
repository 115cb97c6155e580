"""Blocks of a document that are made from the code, so that they cannot go stale.

    <!-- settings: Redis -->
    what a generator writes
    <!-- end -->

What stands outside of the blocks is written by hand and stays as it is. A block is known by
the text of its first comment.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path

_BLOCK = re.compile(r"<!-- (\w+: [^>]+) -->\n(.*?)<!-- end -->", re.DOTALL)


def filled(document: str, blocks: Mapping[str, str]) -> str:
    """The document with every block made anew.

    Raises:
        ValueError: A block of the document is made by nobody, or the other way round.
    """
    found = [name for name, _ in _BLOCK.findall(document)]
    if sorted(found) != sorted(blocks):
        odd = sorted({*found} ^ {*blocks}) or sorted(found)
        raise ValueError(f"not exactly once in the document and in the code: {', '.join(odd)}")
    return _BLOCK.sub(lambda block: _block(block[1], blocks[block[1]]), document)


def _block(name: str, text: str) -> str:
    return f"<!-- {name} -->\n\n{text.strip()}\n\n<!-- end -->"


def run(path: Path, blocks: Mapping[str, str], description: str) -> int:
    """The command of a generator: prints the document, or writes it; the exit status."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"update {path.name} in place")
    options = parser.parse_args()
    document = filled(path.read_text(encoding="utf-8"), blocks)
    if options.write:
        path.write_text(document, encoding="utf-8")
    else:
        sys.stdout.write(document)
    return 0
