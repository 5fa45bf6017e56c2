"""Small structures that find something without a look at all there is. Pure: they know no rule.

``Ranked`` keeps some of the nodes in their order, ``Best`` knows the first of many things by keys that change,
``Agenda`` when each of many things is due, ``Places`` finds the piece of a job that has a task, ``Gaps`` the part of a
job that is not done.
"""
from __future__ import absolute_import, division, print_function

import heapq
from bisect import bisect_left, bisect_right, insort
from itertools import count

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Iterator  # noqa: F401 # novm

#: ``Places`` has blocks of fewer pieces than this, whatever their number.
PLACES_BLOCK = 500
#: ``Gaps`` moves so many at a time, whatever their number.
GAPS_BLOCK = 500
#: So many former keys may be in the heap of ``Best``, or twice as many as there are things.
STALE_MIN = 64


class Ranked(object):
    """Some of the nodes, in their order."""

    def __init__(self):
        # type: () -> None
        self._ranks, self._nodes = [], {}  # type: list, dict

    def file(self, node, belongs):
        # type: (Any, bool) -> None
        if belongs is (node.rank in self._nodes):
            return
        if belongs:
            self._nodes[node.rank] = node
            insort(self._ranks, node.rank)
        else:
            del self._nodes[node.rank]
            del self._ranks[bisect_left(self._ranks, node.rank)]

    def after(self, rank):
        # type: (int) -> Any | None
        """The next one; -1 is before the first."""
        at = bisect_right(self._ranks, rank)
        return self._nodes[self._ranks[at]] if at < len(self._ranks) else None

    def __contains__(self, node):
        # type: (Any) -> bool
        return node.rank in self._nodes

    def __len__(self):
        # type: () -> int
        return len(self._ranks)

    def __iter__(self):
        # type: () -> Iterator[Any]
        return iter([self._nodes[rank] for rank in self._ranks])


class Best(object):
    """The first of many things by keys that change often and are asked for rarely.

    ``key_of(thing, now)`` is its key, which no other thing has, or None. Code that may have changed it calls ``note``.
    """

    def __init__(self, key_of):
        # type: (Any) -> None
        self._key_of = key_of
        self._heap, self._keys = [], {}  # type: list, dict
        self._noted = set()  # type: set

    def note(self, thing):
        # type: (object) -> None
        self._noted.add(thing)

    def drop(self, thing):
        # type: (object) -> None
        self._noted.discard(thing)
        self._keys.pop(thing, None)

    def first(self, now):
        # type: (float) -> Any
        """The thing with the least key, or None."""
        while self._noted:
            thing = self._noted.pop()
            key = self._key_of(thing, now)
            if key is None:
                self._keys.pop(thing, None)
            elif key != self._keys.get(thing):
                self._keys[thing] = key
                heapq.heappush(self._heap, (key, thing))
        if len(self._heap) > STALE_MIN + 2 * len(self._keys):  # former keys, which are not the least, stay in the heap
            self._heap = [(key, thing) for thing, key in self._keys.items()]
            heapq.heapify(self._heap)
        while self._heap:
            key, thing = self._heap[0]
            if self._keys.get(thing) == key:
                return thing
            heapq.heappop(self._heap)
        return None

    def knows(self, thing):
        # type: (object) -> bool
        """Has it a key, or will it be looked at? For ``validate``."""
        return thing in self._noted or thing in self._keys


class Agenda(object):
    """When each of many things is due, where most are put off again and again before that: by signs of life, results.

    ``due_at(thing)`` is its moment now, or None. Code that may have brought that moment forward calls ``note``. A
    moment that was put off is noticed when the old one is over: until then the old one is a lower bound.
    """

    def __init__(self, due_at):
        # type: (Any) -> None
        self._due_at = due_at
        self._heap, self._noted = [], {}  # type: list, dict
        self._count = count()  # things cannot be compared

    def note(self, thing):
        # type: (object) -> None
        moment = self._due_at(thing)
        if moment is not None and (thing not in self._noted or moment < self._noted[thing]):
            self._noted[thing] = moment
            heapq.heappush(self._heap, (moment, next(self._count), thing))

    def drop(self, thing):
        # type: (object) -> None
        self._noted.pop(thing, None)

    def not_before(self):
        # type: () -> float | None
        """Nothing is due before this moment; None: nothing is noted."""
        return self._heap[0][0] if self._heap else None

    def take(self, now):
        # type: (float) -> list
        """What is due by now, no longer noted; ``not_before`` is later than now afterwards."""
        if not self._heap or self._heap[0][0] > now:
            return []
        found = []  # type: list
        while self._heap and self._heap[0][0] <= now:
            moment, _, thing = heapq.heappop(self._heap)
            if self._noted.get(thing) != moment:
                continue  # it was dropped, or brought forward
            del self._noted[thing]
            due_at = self._due_at(thing)
            if due_at is not None and due_at <= now:
                found.append((due_at, len(found), thing))
            else:
                self.note(thing)
        return [thing for _, _, thing in sorted(found)]

    def knows(self, thing):
        # type: (object) -> bool
        """Will it be noticed in time? For ``validate``."""
        moment = self._due_at(thing)
        return moment is None or self._noted.get(thing, moment + 1.0) <= moment


class Places(object):
    """A job's pieces in the order of their tasks, to find the one that has a task.

    A piece's ``lo`` may move up to its ``hi`` here: that keeps the order. They lie in blocks, so that a new piece moves
    few others. Pieces that are done stay until their block is full; none of them hides another piece, whose tasks are
    always a part of theirs.
    """

    __slots__ = ("_blocks", "_done")

    def __init__(self, done):
        # type: (object) -> None
        self._done = done  # the state of pieces that are to be found no more
        self._blocks = [[]]  # type: list # only a single block may be empty

    def put(self, piece):
        # type: (Any) -> None
        at, block = len(self._blocks) - 1, self._blocks[-1]
        if not block or block[-1].lo <= piece.lo:  # as nearly always: a new piece is the last one
            block.append(piece)
        else:
            at = self._block_of(piece.lo)
            block = self._blocks[at]
            block.insert(_end(block, piece.lo), piece)
        if len(block) >= PLACES_BLOCK:
            self._tidy(at)

    def _tidy(self, at):
        # type: (int) -> None
        """Drop what is done from this block, and make two of what is still more than half of a block."""
        left = [piece for piece in self._blocks[at] if piece.state != self._done]
        half = PLACES_BLOCK // 2
        self._blocks[at : at + 1] = [part for part in (left[:half], left[half:]) if part]
        if not self._blocks:
            self._blocks = [[]]

    def fill(self, pieces):
        # type: (list) -> None
        """These are all there are, in the order of their tasks."""
        half = PLACES_BLOCK // 2
        self._blocks = [pieces[at : at + half] for at in range(0, len(pieces), half)] or [[]]

    def having(self, task):
        # type: (int) -> Any | None
        """The piece that has this task and is not done."""
        block = self._blocks[self._block_of(task)]
        end = _end(block, task)
        piece = block[end - 1] if end else None
        return piece if piece is not None and piece.state != self._done and task < piece.hi else None

    def _block_of(self, task):
        # type: (int) -> int
        """The last block that begins with this task or before it, or the first block."""
        low, high = 1, len(self._blocks)
        while low < high:
            middle = (low + high) // 2
            if self._blocks[middle][0].lo <= task:
                low = middle + 1
            else:
                high = middle
        return low - 1

    def __iter__(self):
        # type: () -> Iterator[Any]
        return (piece for block in self._blocks for piece in block if piece.state != self._done)


def _end(pieces, task):
    # type: (list, int) -> int
    """How many of these pieces begin with this task or before it. (bisect knows no key before Python 3.10.)"""
    low, high = 0, len(pieces)
    while low < high:
        middle = (low + high) // 2
        if pieces[middle].lo <= task:
            low = middle + 1
        else:
            high = middle
    return low


def gaps_between(spans, total):
    # type: (list, int) -> list
    """What of [0, total) no span covers: (lo, hi), in order."""
    gaps, at = [], 0
    for first, end in sorted(spans):
        if at < min(first, total):
            gaps.append((at, min(first, total)))
        at = max(at, end)
    return gaps + [(at, total)] if at < total else gaps


class Gaps(object):
    """Gaps (lo, hi), in order, of which parts are taken. They lie in blocks, so that taking moves few of them."""

    def __init__(self, gaps):
        # type: (list) -> None
        self._blocks = [gaps[at : at + GAPS_BLOCK] for at in range(0, len(gaps), GAPS_BLOCK)]
        self._begins = [block[0][0] for block in self._blocks]  # a block's gaps lie between this and the next begin

    def take(self, first, end):
        # type: (int, int) -> tuple | None
        """The last part of a gap that lies in [first, end): (lo, hi), no longer a gap; None if there is none."""
        at = bisect_left(self._begins, end) - 1
        while at >= 0:
            gaps = self._blocks[at]
            last = bisect_left(gaps, (end,)) - 1
            if last >= 0:
                return _taken(gaps, last, first, end)
            if self._begins[at] <= first:
                return None
            at -= 1
        return None

    def __iter__(self):
        # type: () -> Iterator[tuple]
        return (gap for block in self._blocks for gap in block)


def _taken(gaps, at, first, end):
    # type: (list, int, int, int) -> tuple | None
    """Of this gap the part that lies in [first, end), as ``Gaps.take`` returns it."""
    if gaps[at][1] <= first:
        return None
    lo, hi = max(gaps[at][0], first), min(gaps[at][1], end)
    gaps[at : at + 1] = [gap for gap in ((gaps[at][0], lo), (hi, gaps[at][1])) if gap[0] < gap[1]]
    return lo, hi
