"""What a brain remembers of what happened to it, bounded, for its own errors (DESIGN.md 4)."""
from __future__ import absolute_import, division, print_function

from collections import deque

from .errors import InternalError


class Storied(object):
    """Its subclasses keep ``_now``, and put into the words what somebody may ask for by ``story``."""

    _now = 0.0

    def __init__(self, length):
        # type: (int) -> None
        self._history = deque(maxlen=length)  # type: deque

    def _tell(self, *words):
        # type: (object) -> None
        self._history.append((self._now, words))

    def story(self, key):
        # type: (object) -> list
        """What is remembered of an attempt, a node, a job, "slot N" or "link": (time, words), oldest first, bounded."""
        return [(when, words) for when, words in self._history if key in words]

    def _broken(self, what, key):
        # type: (str, object) -> None
        raise InternalError("%s\n%s" % (what, "\n".join("%.3f %r" % line for line in self.story(key))))
