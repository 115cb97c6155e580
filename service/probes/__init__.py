"""What can be unhealthy, and how to see it: one module for each kind of thing.

A probe is a callable that returns a result or raises. It knows nothing of intervals,
thresholds or other probes. Those that wait for somebody have a ``close()``, which any thread
may call: it drops what the probe holds and so wakes a call that is stuck.
"""
