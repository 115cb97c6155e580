"""The HTTP face: reads a snapshot, never probes.

``front`` is the WSGI callable a worker serves; ``reader`` looks at the scoreboard,
``payload`` turns what it sees into documents, ``answers`` into bytes, ``disclosure`` decides
who may see what, and the route families hang them into Flask.
"""
