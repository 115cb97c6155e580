"""Peer: what most services have, a Flask view that returns a constant."""

from typing import Any

from flask import Flask, jsonify

app = Flask(__name__)


@app.get("/health")
def health() -> Any:
    """Says what it always says."""
    return jsonify(status="healthy", timestamp="2025-01-27T10:30:00.000Z", version="1.0.0")
