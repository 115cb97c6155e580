"""The commands. ``commands`` declares them, and says which module runs which.

A command that looks at something first makes a document, which ``--json`` prints as it is, and
its text from that document: the two cannot disagree. ``pod`` is how commands see the running
pod, through the scoreboard and without HTTP, and ``remote`` how they see one elsewhere;
``output`` is how they print.
"""
