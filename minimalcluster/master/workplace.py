"""Where a cluster's own node works, the one in the master's process: on this machine, or on an engine's workers."""
from __future__ import absolute_import, division, print_function

from ..node import boot
from ..node.hands import Hands  # noqa: F401 # in a type comment
from ..node.node import Node
from ..wire.loop import Loop  # noqa: F401 # in a type comment
from .job import Job  # noqa: F401 # in a type comment

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from ..node.hands import Drop, End, Send  # noqa: F401


class Workplace(object):
    """What the cluster asks before its own node joins, leaves or gets a job, and the maker of that node."""

    #: Whether its worker processes are the cluster's alone: then they may run the user's script for its functions.
    runs_scripts = True

    def slots_at_start(self):
        # type: () -> int | None
        """With how many slots the node joins when the cluster starts; None: it joins when the user says so."""

    def check_job(self, job):
        # type: (Job) -> None
        """Raises UsageError for a wish of the job that cannot be fulfilled here."""

    def check_join(self):
        # type: () -> None
        """Raises StartError if no worker process can be started, StateError if the user may not ask for it."""

    def check_leave(self):
        # type: () -> None
        """Raises StateError if the user may not ask for it."""

    def node(self, loop, slots, send, drop, end):
        # type: (Loop, int, Send, Drop, End) -> Hands
        """The node, with arguments as for Hands. Called in the cluster's thread."""
        raise NotImplementedError


class ThisMachine(Workplace):
    """Worker processes on this machine."""

    def check_join(self):
        # type: () -> None
        boot.executable()

    def node(self, loop, slots, send, drop, end):
        # type: (Loop, int, Send, Drop, End) -> Hands
        return Node(loop, slots, send, drop, end)
