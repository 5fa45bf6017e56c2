"""How far a job may be handed out, ahead of the results that its reader has taken. Pure.

::

    taken       results wait, tasks run       reached                           limit = taken + RESULTS_MAX
      v                                          v                                v
    ..[..........................................[................................[............

* A job that has handed out all tasks before its limit waits for its reader, who takes results and so raises it. What
  was handed out once is never held back: a task that was lost runs again wherever the limit is (brain/scheduler.py).
* If the results that wait are too large together, the limit is ``reached``, behind the last of them, until half of them
  are taken. So each task before one of them may run: a reader in order gets the result that it waits for, even if no
  node has had its task yet (that of a job that is resumed).
* Too large is more than BYTES_MAX. While the reader waits, for one task that takes longer than those behind it, it is
  also more than RESULTS_EACH results for each worker process: few large results must not keep the others from work.

Results come in the cluster's thread and are taken in the reader's: each of the two changes attributes of its own.
"""
from __future__ import absolute_import, division, print_function

#: So many results may be handed out ahead of the reader: at 32 bytes each or more, they have about BYTES_MAX.
RESULTS_MAX = 1 << 21
#: So many bytes of results may wait, as pickles.
BYTES_MAX = 64 << 20
#: But so many for each worker process may wait behind the one that the reader waits for. See docs/decisions.md.
RESULTS_EACH = 32
#: The cluster hears of a limit that rises in steps: of so small a part of the window.
STEPS = 8


class Window(object):
    """See the module's text."""

    def __init__(self, results_max=None, bytes_max=None, results_each=None):
        # type: (int | None, int | None, int | None) -> None
        self._results_max, self._bytes_max = results_max or RESULTS_MAX, bytes_max or BYTES_MAX
        self._results_each = results_each or RESULTS_EACH
        self.limit = None  # type: int | None # as the cluster knows it
        self._slots = 0
        self._reached = 0  # behind the last task whose result has come
        self._count_in = self._bytes_in = 0
        self._is_full = False
        self.taken = self._count_out = self._bytes_out = 0  # in the reader's thread; taken: those of a journal, too
        self._is_awaited = False  # the reader waits for a result
        self._sizes = {}  # type: dict # first -> bytes of results that came together and were not taken

    # -- in the cluster's thread ------------------------------------------------------------------

    def came(self, first, count, size):
        # type: (int, int, int) -> None
        """Results of so many tasks, which have so many bytes."""
        self._sizes[first] = size
        self._count_in += count
        self._bytes_in += size
        self._reached = max(self._reached, first + count)

    def has_filled(self):
        # type: () -> bool
        """Too many results wait since now: the cluster is to hear of the limit."""
        return not self._is_full and self._are_too_many(1)

    def limit_for(self, slots):
        # type: (int) -> int
        """How far the tasks may be handed out now, where there are so many worker processes."""
        self._slots = slots
        part = 2 if self._is_full else 1
        self._is_full = True  # first: if the reader takes results now, it says that there is room
        self._is_full = self._are_too_many(part)
        self.limit = self._reached if self._is_full else self.taken + self._results_max
        return self.limit

    # -- in the reader's thread -------------------------------------------------------------------

    def took(self, first, count):
        # type: (int, int) -> bool
        """Results that came together are taken. Returns whether the limit rises enough to be told."""
        self.taken += count
        self._is_awaited = False
        size = self._sizes.pop(first, None)
        if size is not None:
            self._count_out += count
            self._bytes_out += size
        if self._is_full:
            return not self._are_too_many(2)
        limit = self.limit
        return limit is not None and STEPS * (self.taken + self._results_max - limit) >= self._results_max

    def waits(self):
        # type: () -> bool
        """The reader waits: what has come is not what it waits for. Returns as ``took``."""
        self._is_awaited = True
        return self._is_full and not self._are_too_many(2)

    # -- in both ----------------------------------------------------------------------------------

    def _are_too_many(self, part):
        # type: (int) -> bool
        """Do more results wait than this part of what may wait?"""
        if self._bytes_in - self._bytes_out <= self._bytes_max // part:
            return False
        return not self._is_awaited or self._count_in - self._count_out > self._results_each * self._slots // part

    def wait(self):
        # type: () -> str | None
        """What the job waits for when nothing of it runs, for people; None if it is not for its reader."""
        if self.limit is None or self._reached < self.limit:
            return None
        count, size = self._count_in - self._count_out, self._bytes_in - self._bytes_out
        return "%d results (%.0f MB) wait to be taken; no more tasks are handed out meanwhile" % (count, size / 1e6)
