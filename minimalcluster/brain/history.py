"""What a brain remembers of what happened to it, bounded, for its own errors."""
from __future__ import absolute_import, division, print_function

from collections import deque

from ..compat import raise_from
from ..errors import InternalError

#: So many of the last lines are put into an error that has no key.
LAST_LINES = 30


class WithHistory(object):
    """Its subclasses keep ``_now``. The words that they remember contain the keys that ``story`` is asked for."""

    _now = 0.0

    def __init__(self, length):
        # type: (int) -> None
        self._history = deque(maxlen=length)  # type: deque

    def _remember(self, *words):
        # type: (object) -> None
        self._history.append((self._now, words))

    def story(self, key):
        # type: (object) -> list
        """What is remembered of an attempt, a node, a job, "slot N" or "link": (time, words), oldest first, bounded."""
        return [(when, words) for when, words in self._history if key in words]

    def effects_of(self, event, now):
        # type: (tuple, float) -> list
        """As ``handle``. Any error there is a broken invariant: it is raised with what has happened before."""
        try:
            return self.handle(event, now)  # type: ignore[attr-defined]
        except InternalError:
            raise
        except Exception as error:
            last = "\n".join("%.3f %r" % line for line in list(self._history)[-LAST_LINES:])
            text = "%s while it handled %r: %s; before that:\n%s"
            raise_from(InternalError(text % (type(error).__name__, event, error, last)), error)
            raise  # never: for type checkers

    def _broken(self, what, key):
        # type: (str, object) -> None
        raise InternalError("%s\n%s" % (what, "\n".join("%.3f %r" % line for line in self.story(key))))
