"""A name server for one name, whose addresses can be changed."""

import socket
import struct
import threading
from collections.abc import Sequence
from typing import Self

A, IN, TTL = 1, 1, 1


class NameServer:
    """Answers every question for an A record with the addresses it has been given.

    Attributes:
        address: Where it listens, as nginx writes it.
        addresses: What every name stands for.
        asked: How many questions it has answered.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        host, port = self._socket.getsockname()
        self.address = f"{host}:{port}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        self._socket.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                question, client = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            self._socket.sendto(answer(question, list(self.addresses)), client)
            self.asked += 1


def answer(question: bytes, addresses: list[str]) -> bytes:
    """The answer to a question; without addresses, one that says there are none."""
    number, _, asked = struct.unpack_from("!HHH", question)
    end = question.index(b"\0", 12) + 5
    kind = struct.unpack_from("!H", question, end - 4)[0]
    found = addresses if kind == A else []
    header = struct.pack("!HHHHHH", number, 0x8580, asked, len(found), 0, 0)
    records = [
        struct.pack("!HHHIH", 0xC00C, A, IN, TTL, 4) + socket.inet_aton(address)
        for address in found
    ]
    return header + question[12:end] + b"".join(records)
