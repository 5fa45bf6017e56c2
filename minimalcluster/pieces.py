"""A buffer that is in several pieces."""
from __future__ import absolute_import, division, print_function


class Pieces(object):
    """One buffer of a message's payload, which need not be joined to be sent."""

    __slots__ = ("_size", "pieces")

    def __init__(self, pieces):
        # type: (list) -> None
        self.pieces, self._size = pieces, sum(map(len, pieces))

    def joined(self):
        # type: () -> bytes
        return b"".join(self.pieces)

    def __len__(self):
        # type: () -> int
        return self._size
