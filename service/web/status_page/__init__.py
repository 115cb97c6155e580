"""``/status``: the page people look at when something is wrong, or to see that nothing is.

``document`` says what is on it, ``page`` makes HTML of that, ``live.js`` keeps it up to date. It is
answered 200 in every state: it has no verdict of its own, it shows them.
"""
