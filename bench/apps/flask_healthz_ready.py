"""Peer: flask-healthz with one check that passes."""

from flask import Flask
from flask_healthz import healthz

app = Flask(__name__)
app.config["HEALTHZ"] = {"ready": lambda: None}
app.register_blueprint(healthz, url_prefix="/healthz")
