"""A process that wants a task done once: ``python contender.py URL TASK FATES``.

``FATES`` is a directory. As long as there is a file in it, whoever gets into the task takes one
away and dies in the middle of the work.
"""

import os
import random
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from service.coordination import ledger
from service.coordination.ledger import Busy, Cord, Entry, Ledger

WAIT = threading.Event()


def main(url: str, task: str, fates: Path) -> None:
    ledger.CLAIM_SECONDS = 0.2
    mine = Ledger(url, "shop", "r1", f"contender-{os.getpid()}")

    def work(connection: Connection) -> None:
        connection.execute(
            text("INSERT INTO effect (task, pid) VALUES (:task, :pid)"),
            {"task": task, "pid": os.getpid()},
        )
        for fate in fates.iterdir():
            fate.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def due(entry: Entry | None) -> bool:
        return entry is None or entry.state != "done"

    while True:
        with suppress(Busy, OperationalError):
            entry = mine.claim(task, 100, due, Cord())
            if entry is not None:
                mine.perform(task, entry.attempt, work, 60.0, Cord())
        with suppress(OperationalError):
            if mine.entries(Cord()).get(task, entry_of_nobody).state == "done":
                return
        WAIT.wait(random.uniform(0.0, 0.05))


entry_of_nobody = Entry("unknown", 0, 0, None, None, 0.0)

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
