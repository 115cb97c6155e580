"""An application with a metric of its own."""

from prometheus_client import Counter

from examples.plain import app

__all__ = ["app"]

Counter("imports", "How often this module was imported").inc()
