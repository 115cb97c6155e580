"""The forms a metrics endpoint answers in, and which one a caller wants.

By the q-values of ``Accept``; on a tie the first of ``Format`` wins, and what nobody can make
sense of asks for the first as well. There is no 406: a scrape that fails tells less than one
in another form.
"""

import re
from enum import Enum

_QUALITY = re.compile(r"0(\.\d*)?|1(\.0*)?")


class Format(Enum):
    """A form of the answer; its value is the ``Content-Type``."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    JSON = "application/json"

    @property
    def media_type(self) -> str:
        """The value without its parameters."""
        return self.value.partition(";")[0]


def negotiate(accept: str) -> Format:
    """The form that an ``Accept`` header prefers; TEXT for an empty one."""
    ranges = [_media_range(item) for item in accept.split(",")]
    return max(Format, key=lambda form: _quality(form.media_type, ranges))  # the first of the best


def chosen(accept: str, media_type: str, *, over: str) -> bool:
    """Whether an ``Accept`` header names a form, and does not prefer the usual one to it."""
    ranges = [_media_range(item) for item in accept.split(",")]
    named = max((quality for name, quality in ranges if name == media_type), default=0.0)
    return 0 < named >= _quality(over, ranges)


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """How much a form is wanted: by the most specific range that names it, best of equals."""
    for pattern in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        found = [quality for media_range, quality in ranges if media_range == pattern]
        if found:
            return max(found)
    return 0.0


def _media_range(item: str) -> tuple[str, float]:
    """Type and q-value of one element; an empty type where it is none of ours."""
    media_type, *parameters = (part.strip().lower() for part in item.split(";"))
    values = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
    quality = values.get("q", "1")
    version = values.get("version", "1.0.0").strip('"')
    if media_type == Format.OPENMETRICS.media_type and version != "1.0.0":
        return "", 0.0
    if not _QUALITY.fullmatch(quality):
        return "", 0.0
    return media_type, float(quality)
