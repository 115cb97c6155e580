"""Steps the wall clock of every Python process that has this directory on its path.

The file named by WALL_CLOCK_STEP holds the step in seconds; it may change at any time.
"""

import os
import time
from pathlib import Path

_step = Path(os.environ["WALL_CLOCK_STEP"])
_real_time, _real_time_ns = time.time, time.time_ns


def _stepped() -> float:
    return _real_time() + float(_step.read_text())


time.time = _stepped
time.time_ns = lambda: _real_time_ns() + int(float(_step.read_text()) * 1_000_000_000)
