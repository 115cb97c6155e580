"""An application that takes as long to import as the test wants it to."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAUSE = threading.Event()

while not Path(os.environ["MAY_START"]).exists():
    PAUSE.wait(0.02)


def app(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Says hello."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
