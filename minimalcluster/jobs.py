"""The user's side of a job: what arrives in the cluster's thread is taken in the user's own.

``Job`` is what ``Cluster`` expects of a job (see there): its deliveries only queue; ``take`` decodes
them in whatever thread wants the outcomes, so that nobody's slow unpickling delays a heartbeat.
"""
from __future__ import absolute_import, division, print_function

from collections import namedtuple

from . import errors, values
from .compat import SimpleQueue, native, queue

#: values: one per task from ``first`` on; a ``Failure`` in place of each that failed.
Outcomes = namedtuple("Outcomes", "first values")
#: The job is over: error is None, or why it ended early.
End = namedtuple("End", "error")


class Failure(object):
    """In place of a result: the exception, and the node it happened on."""

    __slots__ = ("error", "node")

    def __init__(self, error, node):
        # type: (BaseException, str) -> None
        self.error, self.node = error, node


class Job(object):
    """Subclasses set ``total``, ``closed``, ``options`` and have ``definition()`` and ``encode(first, count)``."""

    def __init__(self):
        # type: () -> None
        self._arrivals = SimpleQueue()  # type: queue.Queue
        self.announced = False  # the cluster will look at ``total`` and ``closed`` anyway

    # -- in the cluster's thread ------------------------------------------------------------------

    def deliver(self, first, count, skip, buffers):
        # type: (int, int, int, list) -> None
        self._arrivals.put((_results, first, count, skip, buffers))

    def deliver_failure(self, first, node, info, buffers):
        # type: (int, str, dict, list) -> None
        self._arrivals.put((_failure, first, node, info, buffers))

    def deliver_poison(self, first, deaths):
        # type: (int, tuple) -> None
        self._arrivals.put((_poison, first, deaths))

    def finished(self, unfit):
        # type: (dict | None) -> None
        self._arrivals.put((_end, unfit))

    def crashed(self, error):
        # type: (BaseException) -> None
        self._arrivals.put((End, error))

    # -- in the user's thread ---------------------------------------------------------------------

    def take(self, seconds=None):
        # type: (float | None) -> Outcomes | End | None
        """The next arrival, decoded; None when nothing comes within the time."""
        try:
            arrival = self._arrivals.get(True, seconds)
        except queue.Empty:
            return None
        return arrival[0](*arrival[1:])


def _results(first, count, skip, buffers):
    # type: (int, int, int, list) -> Outcomes
    results = values.decode_results(buffers, skip)[: count - skip]
    if not values.all_scalars(results):
        for index, result in enumerate(results):
            if isinstance(result, values.Misfit):
                results[index] = Failure(result.error, "this machine")
    return Outcomes(first + skip, results)


def _failure(first, node, info, buffers):
    # type: (int, str, dict, list) -> Outcomes
    return Outcomes(first, [Failure(values.decode_exception(info, buffers), node)])


def _poison(first, deaths):
    # type: (int, tuple) -> Outcomes
    nodes = [death.node for death in deaths]
    last = deaths[-1].info
    how = native(last.get("exit", "?"))
    lines = [native(line) for line in last.get("lines", ())]
    text = "the worker process died each of %d times it ran this task: %s, on %s" % (
        len(deaths), how, ", ".join(sorted(set(nodes))),
    )  # fmt: skip
    if lines:
        text += "; it last wrote:\n  " + "\n  ".join(lines)
    return Outcomes(first, [Failure(errors.WorkerDied(text, how, nodes, lines), nodes[-1])])


def _end(unfit):
    # type: (dict | None) -> End
    if unfit is None:
        return End(None)
    cause = values.decode_exception(unfit, [])
    error = errors.SourceError("no node can run this job; the last one said: %s" % cause)
    error.__cause__ = cause
    return End(error)
