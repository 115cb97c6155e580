"""One module for each family: ``rows(effort)`` measures it, ``NAMES`` is the order of the table.

A family that draws a plot has ``curves(effort)`` as well.
"""
