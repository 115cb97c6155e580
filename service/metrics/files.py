"""The metric files: each written by one process, and read by any.

    used       int32      bytes in use, these eight included; 0 in a file nobody has used yet
    -          4 bytes
    entries    n times:   int32 length of the key
                          the key and at least one space, up to a multiple of 8
                          double value, double timestamp

A key is the JSON array ``[metric, sample, labels, help]``. A file is named
``<kind>_<identity>.db``; the kind is the metric's type, and for a gauge its mode as well, such
as ``gauge_livesum``. This is the layout of prometheus_client's multiprocess mode, so either
side reads what the other has written.

The writer's duties: an entry is whole before ``used`` grows over it; a number is one aligned
store of 8 bytes; the file only ever grows by reserved blocks, because a store into a hole dies
by SIGBUS when the file system is full, whereas a reservation raises. The reader's: it copies
the bytes out first, since a mapping of a file that somebody cuts short kills its holder too.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

HEADER_BYTES = 8
WORD = 8
RESERVED_BYTES = 64 * 1024

CORRUPT = ".corrupt"  # behind the name of a file that was renamed out of the way

_int32 = struct.Struct("i")


class DamagedError(ValueError):
    """Bytes that are no metric file, or no longer one."""


def used(data: memoryview) -> int:
    """How many bytes a file says it has in use.

    Raises:
        DamagedError: There is not even a header.
    """
    if len(data) < HEADER_BYTES:
        raise DamagedError("shorter than its header")
    return int(_int32.unpack_from(data)[0])


def entries(data: memoryview, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The entries between two bytes, which must be in ``data``.

    Yields:
        The key, the place of its value in words of 8 bytes, and the first byte after both.

    Raises:
        DamagedError: The entry after those given so far is not whole.
    """
    while start < end:
        if start + _int32.size > end:
            raise DamagedError("ends inside a length")
        length = _int32.unpack_from(data, start)[0]
        value = start + _spread(length)
        if length <= 0 or value + 2 * WORD > end:
            raise DamagedError("ends inside an entry")
        key = bytes(data[start + _int32.size : start + _int32.size + length])
        start = value + 2 * WORD
        yield key, value // WORD, start


def check(path: Path, understand: Callable[[bytes], object]) -> None:
    """Reads a file from one end to the other.

    Args:
        path: The file.
        understand: Raises for a key that names nothing.

    Raises:
        DamagedError: It is not whole, so nobody may go on in it.
        OSError: It cannot be read.
    """
    data = memoryview(path.read_bytes())
    try:
        for key, _, _ in entries(data, HEADER_BYTES, _extent(data)):
            understand(key)
    except (ValueError, RecursionError) as error:
        raise DamagedError(str(error)) from error


def reserve(path: Path, size: int) -> None:
    """Makes a file with all its blocks; a reader sees no file or a whole one.

    Raises:
        OSError: There is no room, or no right to make it.
    """
    if path.exists():
        return
    staging = path.with_suffix(".db.new")
    descriptor = os.open(staging, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        staging.rename(path)
    except OSError:
        staging.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


class MetricFile:
    """A file being written, by the one process whose it is. The caller holds a lock.

    Raises:
        OSError: It cannot be opened, or its holes cannot be filled.
        DamagedError: It is not whole.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._grow(max(os.fstat(self._descriptor).st_size, HEADER_BYTES))
            self._end = _extent(self._bytes)
            found = entries(self._bytes, HEADER_BYTES, self._end)
            self._places = {key.decode(): at for key, at, _ in found}
        except (OSError, ValueError):
            self.close()
            raise

    def place(self, key: str) -> "tuple[memoryview[float], int]":
        """Where the number of a key is: the file as doubles, and its index there.

        What is stored there stays visible to readers after the file has grown, too.

        Raises:
            OSError: The file is full and cannot grow.
        """
        if key not in self._places:
            self._places[key] = self._append(key.encode())
        return self._doubles, self._places[key]

    def close(self) -> None:
        """Gives the descriptor back; numbers handed out stay where they are."""
        os.close(self._descriptor)

    def _append(self, key: bytes) -> int:
        spread = _spread(len(key))
        start, end = self._end, self._end + spread + 2 * WORD
        if end > len(self._bytes):
            self._grow(2 * max(len(self._bytes), end))
        padded = key.ljust(spread - _int32.size)
        self._bytes[start:end] = struct.pack(f"i{len(padded)}sdd", len(key), padded, 0.0, 0.0)
        self._int32s[0] = self._end = end
        return (start + spread) // WORD

    def _grow(self, size: int) -> None:
        size += -size % WORD
        os.posix_fallocate(self._descriptor, 0, size)
        self._bytes = memoryview(mmap.mmap(self._descriptor, size))
        self._doubles = self._bytes.cast("d")
        self._int32s = self._bytes.cast("i")


def _extent(data: memoryview) -> int:
    """Where the part in use ends, in a file that must be whole.

    Raises:
        DamagedError: It is not.
    """
    end = used(data) or HEADER_BYTES
    if not HEADER_BYTES <= end <= len(data):
        raise DamagedError("shorter than it says")
    return end


def _spread(length: int) -> int:
    """Bytes from the start of an entry to its value, for a key of some length."""
    return _int32.size + length + (WORD - (length + _int32.size) % WORD)
