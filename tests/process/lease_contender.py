"""A process that wants a lease, does something under it, and says so, line by line.

    grant  <fence> <asked> <got> <valid until>      nanoseconds of CLOCK_MONOTONIC
    effect <fence> <looked at the clock>
    gone   <fence> <gave it up>

The lines are the effects: whoever reads them is the resource. Between the look at the clock and
the line there is a pause, which is where a stopped process wakes up as a zombie.
"""

import contextlib
import random
import sys
import threading
import time

from service.coordination.client import connect
from service.coordination.lease import Lease, Unavailable

WORK = 0.02
PAUSE = 0.2


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(url: str, name: str, ttl: float) -> None:
    lease = Lease(connect(url, timeout=0.25), "{history}:", "role", name, ttl=ttl)
    never, fence = threading.Event(), 0
    while True:
        asked, grant = time.monotonic_ns(), None
        with contextlib.suppress(Unavailable):
            grant = lease.acquire()
        if grant is not None:
            got, until = time.monotonic_ns(), int(grant.valid_until * 1e9)
            fence = grant.fence
            say("grant", fence, asked, got, until)
        never.wait(PAUSE * random.uniform(0.5, 1.5))
        for _ in range(3):
            now = time.monotonic()
            held = lease.held(now)
            if held is None:
                break
            never.wait(WORK)
            say("effect", held.fence, int(now * 1e9))
        if fence and random.random() < 0.15:
            say("gone", fence, time.monotonic_ns())
            fence = 0
            with contextlib.suppress(Unavailable):
                lease.release()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
