"""Somebody's application: one small Flask view; and a route that keeps its worker busy."""

import threading
import time
from typing import Any

from flask import Flask, jsonify

app = Flask(__name__)
_never = threading.Event()


@app.get("/orders/<int:number>")
def order(number: int) -> Any:
    """What most requests of most applications are: a little JSON."""
    return jsonify(number=number, state="paid", items=[{"sku": "a-1", "count": 2}], total=1999)


@app.get("/wait")
def wait() -> Any:
    """Holds a thread for a while, as a slow database would."""
    _never.wait(0.5)
    return jsonify(waited=True)


@app.get("/compute")
def compute() -> Any:
    """Holds a thread and a processor for a while."""
    end, number = time.perf_counter() + 0.1, 0
    while time.perf_counter() < end:
        number += 1
    return jsonify(computed=number > 0)
