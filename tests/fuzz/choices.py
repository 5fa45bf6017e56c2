"""Bytes as a series of choices: how a fuzzer's input becomes frames, messages and events. The end of the bytes is 0 for ever."""
from __future__ import absolute_import, division, print_function

import struct

#: Whole numbers that are at an edge of something.
EDGES = (
    0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 1000, 65535, 65536, 65537, 2**20, 2**20 + 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40,
    2**53 + 1, 2**63 - 1, -1, -2, -(2**31), -(2**63),
)  # fmt: skip


class Wrong(Exception):
    """A rule is broken: what a fuzzer looks for."""


class Choices(object):
    """What a byte means is the caller's to say. All bytes mean something."""

    def __init__(self, data):
        # type: (bytes) -> None
        self._data, self._at = bytearray(data), 0

    def __bool__(self):
        # type: () -> bool
        return self._at < len(self._data)

    __nonzero__ = __bool__

    def byte(self):
        # type: () -> int
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def below(self, limit):
        # type: (int) -> int
        return self.byte() % limit

    def of(self, things):
        # type: (object) -> object
        return things[self.byte() % len(things)]  # type: ignore[index,arg-type]

    def take(self, count):
        # type: (int) -> bytes
        taken = bytes(self._data[self._at : self._at + count])
        self._at += count
        return taken

    def chunk(self):
        # type: () -> bytes
        """Two bytes that say how many follow; at most as many as there are."""
        size = self.byte()
        return self.take(size << 8 | self.byte())

    def rest(self):
        # type: () -> bytes
        return self.take(len(self._data))

    def whole(self):
        # type: () -> int
        """A number of 64 bits: small, an edge, or any."""
        first = self.byte()
        if first < 200:
            return first
        if first < 200 + len(EDGES):
            return EDGES[first - 200]
        return struct.unpack(">q", self.take(8).rjust(8, b"\0"))[0]

    def value(self, depth=0):
        # type: (int) -> object
        """Something that JSON can hold, and Python's reader accepts."""
        kind = self.below(16)
        if kind < 3:
            return (None, True, False)[kind]
        if kind < 6:
            return self.whole() * (2 ** (self.byte() % 70) if kind == 5 else 1)
        if kind < 8:
            return self.of((0.0, -0.5, 1.5, 1e308, 5e-324, float("inf"), float("-inf"), float("nan")))
        if kind < 12 or depth > 6:
            return self.text()
        if kind < 14:
            return [self.value(depth + 1) for _ in range(self.below(5))]
        return {self.text(): self.value(depth + 1) for _ in range(self.below(5))}

    def text(self):
        # type: () -> str
        kind = self.below(8)
        if kind == 0:
            return u"\udc80\ud800\0%s{}\n"
        if kind == 1:
            return u"x" * (256 * self.byte())
        return self.take(self.below(24)).decode("latin-1")


def pieces(data, how):
    # type: (bytes, int) -> list
    """The data as it may come out of a socket: whole, byte by byte, or in parts of a size; ``how`` is any byte."""
    if how % 4 == 0 or not data:
        return [data]
    size = 1 if how % 4 == 1 else 1 + how // 4
    return [data[start : start + size] for start in range(0, len(data), size)]
