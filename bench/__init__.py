"""`make bench`: what the service costs and how fast it answers, as ratios.

Machines are noisy, so no absolute figure is a claim. Everything is measured beside a reference,
in turns, in the same run, and the figure is the median of the turns' ratios.

In reading order: ``core`` (rows, targets, turns), ``processes`` (what /proc says), ``client``
(the load), ``servers`` (a reference under gunicorn, a pod, the peers' environments),
``families`` (one module for each family of rows), ``report`` (the table), ``plots``.
"""
