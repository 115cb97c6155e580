"""One truthful health answer per pod for every WSGI app under gunicorn.

In reading order:

    health        values and decisions; pure
    scoreboard    the shared memory of a pod
    probes        what can be unhealthy, and how to see it
    monitor       the loop that runs probes and publishes
    startup       work that is done before the pod serves, once
    notifier      who outside is told what has become of the checks
    coordinator   this pod's part in the fleet: lease, shared results, view
    web           answers from what was published
    worker        the health worker's server, which no client can hold
    hooks         which process is what under gunicorn
    app           puts it all together

What an application imports is here and in ``service.pools``.
"""

from service.health import (
    Check,
    CheckFailed,
    Probe,
    Result,
    Scope,
    StartupTask,
    Status,
    Thresholds,
)

__all__ = [
    "Check",
    "CheckFailed",
    "Probe",
    "Result",
    "Scope",
    "StartupTask",
    "Status",
    "Thresholds",
]
