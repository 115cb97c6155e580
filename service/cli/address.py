"""An address that a command is told to ask: whether it can be, and why nothing came of it."""

from urllib.parse import SplitResult, urlsplit

LONGEST_CAUSE = 200  # letters; a server may have written some of it


def split(url: str) -> SplitResult | None:
    """The parts of an ``http`` or ``https`` URL; None for what is no such URL."""
    try:
        found = urlsplit(url)
        usable = found.scheme in ("http", "https") and found.hostname and found.port != 0
    except ValueError:  # a port that is no number, a broken IPv6 address
        return None
    return found if usable else None


def cause(error: Exception) -> str:
    """Why there is no answer, in one line."""
    told = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or error
    return " ".join(str(told).split())[:LONGEST_CAUSE] or type(error).__name__
