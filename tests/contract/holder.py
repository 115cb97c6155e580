"""An application that holds database connections, for the tests of pool numbers.

    /hold?n=3   takes three connections and keeps them      /free    gives all back
    /break      throws one pooled connection away

Every answer says which worker it was and what its own engine's pool looks like.
"""

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from sqlalchemy import Connection, text

from service.pools import create_engine

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

engine = create_engine()
held: list[Connection] = []


def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    query = parse_qs(environ["QUERY_STRING"])
    match environ["PATH_INFO"]:
        case "/hold":
            held.extend(engine.connect() for _ in range(int(query["n"][0])))
        case "/free":
            while held:
                held.pop().close()
        case "/break":
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
                connection.invalidate()
    body = json.dumps(figures()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def figures() -> dict[str, Any]:
    pool: Any = engine.pool
    return {
        "pid": os.getpid(),
        "pool_size": pool.size(),
        "checked_in": pool.checkedin(),
        "checked_out": pool.checkedout(),
        "overflow": max(0, pool.overflow()),
    }
