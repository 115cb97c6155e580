"""Make the table of codes in docs/operations.md from the advice in service.advice.

python scripts/operations_doc.py            print the document with a fresh table
python scripts/operations_doc.py --write    put it into the document
"""

import sys
from pathlib import Path

from document_blocks import run

from service.advice import ADVICE, LOG

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "operations.md"


def blocks() -> dict[str, str]:
    """The table, by the name of its block."""
    rows = [
        f"| {', '.join(f'`{code}`' for code in codes)} | {todo} |"
        for codes, todo in ADVICE.items()
        if todo != LOG
    ]
    table = ["| code | do |", "|---|---|", *rows, f"| anything else | {LOG} |"]
    return {"advice: by code": "\n".join(table)}


if __name__ == "__main__":
    sys.exit(run(DOCUMENT, blocks(), __doc__ or ""))
