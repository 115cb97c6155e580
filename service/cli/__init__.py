"""The commands that look: at a running pod, at the settings, at an address.

Each module but two is a command and has ``run``. ``pod`` is how they see the pod, through the
scoreboard and without HTTP; ``output`` is how they print. Each command first makes a document,
which ``--json`` prints as it is, and its text from that document: the two cannot disagree.

Exit status: 0 when the answer is yes, 1 when it is no, 2 when there is none.
"""
