"""What is around an agent (agent.py): events go in, and each effect that comes out is carried out by a method.

::

    Hands --+-- Node (node.py): this machine's worker processes
            +-- EngineNode (engines/cluster.py): the workers of Dask, Ray or an executor

The master, or the link to it, uses a node by the methods of the first section alone, whichever node it is.
"""
from __future__ import absolute_import, division, print_function

from collections import deque

from ..brain import agent as brain
from ..logs import log
from ..wire.loop import Loop  # noqa: F401 # in a type comment

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Callable, Optional  # novm

    # What a node calls: see Hands.
    Send = Callable[[tuple], object]
    Drop = Callable[[str], object]
    End = Callable[[str, Optional[str]], object]

#: The method that carries out each effect.
EFFECTS = {
    brain.ToMaster: "to_master",
    brain.ToChild: "to_child",
    brain.StartChild: "start_child",
    brain.KillChild: "kill_child",
    brain.Keep: "keep",
    brain.Discard: "discard",
    brain.LookBehind: "look_behind",
    brain.DropLink: "drop_link",
    brain.Finished: "finished",
    brain.Warn: "warn",
}  # type: dict[type, str]


class Hands(object):
    """Carries out the effects of its agent.

    slots, about: as the agent's. send: called with each message for the master. drop: called with a reason when the
    link to the master must be closed. end: called as ``end(reason, refused)`` in the loop's thread when all worker
    processes have ended; ``refused`` is the master's sentence if it refused this node, or None.
    """

    def __init__(self, loop, slots, about, send, drop, end):
        # type: (Loop, int, dict, Send, Drop, End) -> None
        self._loop, self._send, self._drop, self._end = loop, send, drop, end
        self._agent = brain.Agent(slots, about)
        self._events = deque()  # type: deque[tuple]
        self._methods = {effect: getattr(self, name) for effect, name in EFFECTS.items()}

    # -- for the master, or the link to it --------------------------------------------------------

    def open(self):
        # type: () -> None
        """Take what worker processes need from the system. Raises OSError if it has that no more."""

    def tell(self, event):
        # type: (tuple) -> None
        """Queue an event for the agent; the next step handles it."""
        self._events.append(event)

    @property
    def has_news(self):
        # type: () -> bool
        """Whether events are queued for the next step."""
        return bool(self._events)

    def step(self, now):
        # type: (float) -> None
        while self._events:
            self._handle(self._events.popleft(), now)
        self._handle(brain.TimePassed(), now)

    def deadline(self):
        # type: () -> float | None
        """When the next step is due, whatever happens; None: only after another event."""
        return 0.0 if self._events else self._agent.deadline()

    def pids(self):
        # type: () -> list[int]
        """Of the worker processes that are this node's own."""
        return []

    def snapshot(self):
        # type: () -> dict
        return self._agent.snapshot()

    # -- effects ----------------------------------------------------------------------------------

    def _handle(self, event, now):
        # type: (tuple, float) -> None
        for effect in self._agent.effects_of(event, now):
            self._loop.spare(self._methods[type(effect)], effect, self._effect_failed)

    def _effect_failed(self, effect, error):
        # type: (tuple, BaseException) -> None
        log.exception("%s failed, and the rest goes on; please report this", type(effect).__name__)

    def to_master(self, effect):
        # type: (brain.ToMaster) -> None
        self._send(effect.message)

    def drop_link(self, effect):
        # type: (brain.DropLink) -> None
        self._drop(effect.reason)

    def warn(self, effect):
        # type: (brain.Warn) -> None
        log.warning("%s", effect.text)

    def to_child(self, effect):
        # type: (brain.ToChild) -> None
        raise NotImplementedError

    def start_child(self, effect):
        # type: (brain.StartChild) -> None
        raise NotImplementedError

    def kill_child(self, effect):
        # type: (brain.KillChild) -> None
        raise NotImplementedError

    def keep(self, effect):
        # type: (brain.Keep) -> None
        """Put a shared object where all worker processes can read it, and tell the agent so: ``Kept``."""
        raise NotImplementedError

    def discard(self, effect):
        # type: (brain.Discard) -> None
        raise NotImplementedError

    def look_behind(self, effect):
        # type: (brain.LookBehind) -> None
        """Find out whether tasks of a job that is over have left processes, and tell the agent so: ``LeftBehind``."""
        raise NotImplementedError

    def finished(self, effect):
        # type: (brain.Finished) -> None
        """Call ``end`` when the worker processes have ended."""
        raise NotImplementedError
