"""Peer: the application of ``bench.apps.user`` with prometheus-flask-exporter in it."""

from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

from bench.apps.user import app

metrics = GunicornInternalPrometheusMetrics(app)
