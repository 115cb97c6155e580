"""Peer: the health view of svcs's documentation, with one service whose ping is free."""

from typing import Any

import svcs
from flask import Flask


class Database:
    """A service that is always there."""


app = svcs.flask.init_app(Flask(__name__))
svcs.flask.register_factory(app, Database, Database, ping=lambda _: None)


@app.get("/health")
def health() -> tuple[dict[str, Any], int]:
    """Pings every service."""
    okay, failing = [], []
    for service in svcs.flask.get_pings():
        try:
            service.ping()
            okay.append(service.name)
        except Exception as error:  # noqa: BLE001 - as documented
            failing.append({service.name: repr(error)})
    return {"ok": okay, "failing": failing}, 500 if failing else 200
