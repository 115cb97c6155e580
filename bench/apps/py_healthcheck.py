"""Peer: py-healthcheck as its documentation shows it, with one check, kept 27 s."""

from flask import Flask
from healthcheck import HealthCheck

app = Flask(__name__)
health = HealthCheck()
health.add_check(lambda: (True, "ok"))
app.add_url_rule("/health", "health", view_func=health.run)
