"""A server that speaks RESP3 and says nothing but what a test has written for it.

with ScriptedServer([b"+OK\r\n"]) as server:
    ... the first command is answered OK, after that everything is read and nothing said ...
"""

import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Self

HELLO = b"%3\r\n+server\r\n+redis\r\n+version\r\n+8.0.0\r\n+proto\r\n:3\r\n"


def push(*words: str | int) -> bytes:
    """A message that nobody has asked for."""
    parts = (f":{word}" if isinstance(word, int) else f"+{word}" for word in words)
    return "".join([f">{len(words)}\r\n", *(f"{part}\r\n" for part in parts)]).encode()


class ScriptedServer:
    """One server.

    Attributes:
        url: How a client reaches it.
        commands: What it was told, each command as its words.
        connections: How many were made.
    """

    def __init__(self, answers: Iterable[bytes]) -> None:
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.commands: list[list[bytes]] = []
        self.connections = 0

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
        for sock in (self._listener, *self._open):
            sock.close()

    def _begin(self, task: object, *args: object) -> None:
        thread = threading.Thread(target=task, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                self._open.append(client)
                self._begin(self._talk, client)

    def _talk(self, client: socket.socket) -> None:
        answers = iter(self._answers)
        with suppress(OSError, ValueError), client.makefile("rb") as stream:
            while count := stream.readline():
                command = []
                for _ in range(int(count[1:])):
                    size = int(stream.readline()[1:])
                    command.append(stream.read(size + 2)[:-2])
                self.commands.append(command)
                client.sendall(HELLO if command[0] == b"HELLO" else next(answers, b""))
