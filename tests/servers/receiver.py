"""Where webhooks go: a server on 127.0.0.1 that keeps what it was sent, and misbehaves on demand.

    with Receiver() as receiver:
        receiver.script = [status(500), hang]      for the next ones; after that it takes all
        ... receiver.url, receiver.messages ...

The behaviours are those of ``providers``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.servers.providers import Behaviour, Handler, ProviderServer, status

taken = status(204)


@dataclass(frozen=True)
class Message:
    """One request.

    Attributes:
        path: Of the URL.
        headers: By their names in lower case.
        body: Byte by byte.
        was_taken: Whether it was answered with a success.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    was_taken: bool

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        return self.json["data"]


class _Receiving(Handler):
    def do_POST(self) -> None:  # noqa: N802 - the name is http.server's
        self.close_connection = True
        self.provider = "receiver"
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        owner = self.server.owner
        assert isinstance(owner, Receiver)
        with owner.changed:
            behave = owner.script.pop(0) if owner.script else owner.otherwise
            owner.messages.append(Message(self.path, headers, body, behave is taken))
            owner.changed.notify_all()
        behave(self)


class Receiver(ProviderServer):
    """The server; a context manager, safe to use from any thread.

    Attributes:
        messages: Everything it was sent, also what it has not taken.
        script: What it does with the next ones, one after the other.
        otherwise: What it does after that.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._server.RequestHandlerClass = _Receiving
        self.messages: list[Message] = []
        self.script: list[Behaviour] = []
        self.otherwise: Behaviour = taken

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/hook"

    @property
    def taken(self) -> list[Message]:
        """What it has taken."""
        return [message for message in self.messages if message.was_taken]

    def of(self, check: str) -> list[tuple[str, str]]:
        """Type and id of what it has taken about a check."""
        return [(each.json["type"], each.id) for each in self.taken if each.data["check"] == check]
