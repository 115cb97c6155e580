"""The HTTP face: reads a snapshot, never probes.

``front`` is the WSGI callable a worker serves; ``reader`` looks at the scoreboard, ``payload``
turns what it sees into documents as ``schemas`` declares them, ``answers`` into bytes,
``disclosure`` decides who may see what. ``endpoints`` declares what there is, and the route
families hang it into Flask.
"""
