"""Servers that do to a probe what a vector says, to the byte."""

import socket
import struct
import threading
from contextlib import ExitStack, suppress
from typing import Any, Self

Steps = list[dict[str, Any]]


class StepServer:
    """Two listeners with the routes of one vector.

    Args:
        steps: What to do when asked for ``path``.
        routes: What to do when asked for another one.
        scale: What every number of seconds is multiplied by.

    Attributes:
        received: Every request, as it came.
    """

    path = "/probe"

    def __init__(self, steps: Steps, routes: dict[str, Steps], scale: float) -> None:
        self.received: list[bytes] = []
        self._routes = {**routes, self.path: steps}
        self._scale = scale
        self._stack = ExitStack()
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        self.port, self.port2 = (each.getsockname()[1] for each in self._listeners)

    def __enter__(self) -> Self:
        for listener in self._listeners:
            self._run(self._accept, listener)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for listener in self._listeners:
            listener.close()

    def _run(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._run(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(10 * self._scale)
            request = b""
            while b"\r\n\r\n" not in request:
                data = client.recv(65536)
                if not data:
                    return
                request += data
            self.received.append(request)
            path = request.split(b" ", 2)[1].decode()
            for step in self._routes[path]:
                self._do(client, step)

    def _do(self, client: socket.socket, step: dict[str, Any]) -> None:
        if "send" in step:
            client.sendall(self._filled(step["send"]))
        elif "send_repeat" in step:
            client.sendall(self._filled(step["send_repeat"]) * step["count"])
        elif "sleep_s" in step:
            self._stopped.wait(step["sleep_s"] * self._scale)
        elif "hold_s" in step:
            client.settimeout(step["hold_s"] * self._scale)
            client.recv(1)
        else:
            assert step == {"close": "rst"}, step
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _filled(self, text: str) -> bytes:
        filled = text.replace("{port}", str(self.port)).replace("{port2}", str(self.port2))
        return filled.replace("{self}", self.path).encode("latin-1")
