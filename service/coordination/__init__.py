"""What crosses pods; every call is bounded, and no request ever waits for Redis.

In reading order: ``client`` (Redis with a hard deadline), ``lease`` (one pod of all, fenced),
``fleet`` (what pods tell each other).
"""
