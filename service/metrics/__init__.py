"""What is counted, and how it is shown to Prometheus.

Every process counts into files of its own; whoever is scraped adds the files up and puts the
pod's snapshot beside the sums. So any worker gives the same answer, and no counter falls when
a worker dies.

In reading order: ``files`` (the bytes on disk), ``writer`` (a process counts into them),
``slots`` (whose files they are), ``instruments`` (what is counted), ``formats`` (what a caller
can ask for), ``series`` (the lines of the answer), ``reader`` (all files together),
``exposition`` (the whole answer).
"""

from service.metrics.exposition import expose
from service.metrics.formats import Format, negotiate
from service.metrics.instruments import Instruments
from service.metrics.reader import MultiprocessReader
from service.metrics.slots import MetricSlot, prepare, take_slot

__all__ = [
    "Format",
    "Instruments",
    "MetricSlot",
    "MultiprocessReader",
    "expose",
    "negotiate",
    "prepare",
    "take_slot",
]
