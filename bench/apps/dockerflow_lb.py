"""Peer: python-dockerflow; ``/__lbheartbeat__`` runs no check, ``/__heartbeat__`` runs one."""

import logging

from dockerflow import checks
from dockerflow.flask import Dockerflow
from flask import Flask

logging.getLogger("request.summary").disabled = True
app = Flask(__name__)
dockerflow = Dockerflow(app)


@checks.register
def nothing() -> list[object]:
    """Finds nothing to complain about."""
    return []
