"""Values and decisions; no I/O, no clock, no framework.

Nothing in this package reads a file, a socket, the environment or the time: whoever calls
it brings the clock and the bytes. So every rule of the product can be tested as a table,
and `make check` refuses an import that would change that.

In reading order: ``status`` (the five words), ``codes`` (the reasons), ``check`` (what is
watched), ``result`` (what a run found), ``history`` (what people look at), ``state``
(hysteresis), ``workers`` (liveness), ``fleet`` (the other pods), ``tasks`` (work before
serving), ``snapshot`` (the verdicts), ``schedule`` (when to run next), ``events`` (what has
turned), ``notices`` (what is told of it).
"""

from service.health.check import Check, Kind, Scope, Thresholds
from service.health.codes import CODES, is_code
from service.health.events import Event, Standing
from service.health.fleet import FleetView, Stance
from service.health.history import History, Sample, Transition
from service.health.notices import Notice, Teller, Trouble
from service.health.pod import Pod
from service.health.result import CheckFailed, Probe, Result, Run
from service.health.snapshot import Lifecycle, Snapshot
from service.health.state import CheckState, Told
from service.health.status import Status, worst
from service.health.tasks import StartupTask, TaskState
from service.health.workers import Phase, PoolUse, ProgressLimits, Role, WorkerSlot

__all__ = [
    "CODES",
    "Check",
    "CheckFailed",
    "CheckState",
    "Event",
    "FleetView",
    "History",
    "Kind",
    "Lifecycle",
    "Notice",
    "Phase",
    "Pod",
    "PoolUse",
    "Probe",
    "ProgressLimits",
    "Result",
    "Role",
    "Run",
    "Sample",
    "Scope",
    "Snapshot",
    "Stance",
    "Standing",
    "StartupTask",
    "Status",
    "TaskState",
    "Teller",
    "Thresholds",
    "Told",
    "Transition",
    "Trouble",
    "WorkerSlot",
    "is_code",
    "worst",
]
