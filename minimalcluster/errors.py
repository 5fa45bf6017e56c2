# -*- coding: utf-8 -*-
"""Every exception this package raises on its own account, and whose side each one blames.

::

    ClusterError
    ├── UsageError              your call; nothing was sent and nothing has changed
    │   ├── ArgumentsError      load_args: no sequence, a duplicate, unhashable, unpicklable
    │   ├── SourceError         the environment ran and raised, here or on every node
    │   ├── InitializerError    the initializer raised in a worker process
    │   ├── TargetError         the function's name is not in the environment, or not callable
    │   └── StateError          the call came too early or too late (no function, shut down)
    ├── TaskError               your function raised; .results and .errors hold every outcome
    ├── ResultError             your function's result cannot be pickled; its cause is the pickling's own error
    ├── TaskTimeout             your function took longer than the timeout you gave it
    ├── DeadlineExceeded        the job took longer than its deadline; .results and .errors have the rest
    ├── JournalError            the journal is foreign, changed or in use; it says which
    ├── StartError              no worker process can be started; it says why
    ├── WorkerDied              the worker process died under this task, attempts_max times
    ├── RemoteError             stands for a remote exception that cannot be rebuilt here
    ├── ConnectionFailed        the network, or the program at the other end
    │   ├── AuthenticationError     one side could not prove that it knows the key
    │   ├── VersionMismatch         Python 2 with 3, or two wire versions
    │   ├── HandshakeTimeout        somebody is there and says nothing
    │   └── ProtocolError           what arrived is not ours
    │       └── FrameTooLarge       one object is larger than the limit
    └── InternalError           ours: an invariant broke; its text tells the story

    Interrupted                 Ctrl-C: a KeyboardInterrupt with .results and .errors of what was done
    RemoteTraceback             text of a traceback on a node, as the ``__cause__`` of its exception

A missing file, a syntax error or a bad port stay what Python calls them (``IOError``,
``SyntaxError``, ``ValueError``): they already name the value.
"""
from __future__ import absolute_import, division, print_function


class ClusterError(Exception):
    """Base of all errors of this package."""


class UsageError(ClusterError):
    """The call was wrong; the state before it is kept."""


class ArgumentsError(UsageError, TypeError, ValueError):
    """The arguments are no sequence of unique, hashable, picklable values. Names index and value."""


class SourceError(UsageError):
    """The environment's source raised while it was run; the original exception is the cause."""


class InitializerError(UsageError):
    """A worker process's initializer raised; the text says what."""


class TargetError(UsageError, ValueError):
    """The registered name is not defined by the environment, or cannot be called."""


class StateError(UsageError, RuntimeError):
    """The call does not fit the state: no function registered, not started, shut down."""


class TaskError(ClusterError):
    """At least one task raised. ``__cause__`` is the first failure's own exception.

    argument, node: of the first failure.
    results: dict of argument -> result, all that succeeded.
    errors: dict of argument -> exception, all that failed.
    """

    def __init__(self, message, argument=None, node=None, results=None, errors=None):
        # type: (str, object, object, dict | None, dict | None) -> None
        super(TaskError, self).__init__(message)
        self.argument = argument
        self.node = node
        self.results = {} if results is None else results
        self.errors = {} if errors is None else errors


class ResultError(ClusterError, TypeError):
    """The result cannot be sent back. value: its repr. ``__context__`` is the pickling's own error."""

    def __init__(self, message, value=""):
        # type: (str, str) -> None
        super(ResultError, self).__init__(message, value)
        self.value = value

    def __str__(self):
        # type: () -> str
        return str(self.args[0])


class TaskTimeout(ClusterError):
    """The call took longer than it was given, and was ended with its worker process."""


class DeadlineExceeded(ClusterError):
    """The job's ``deadline=`` has passed. results, errors: dicts of the tasks that have an outcome.

    Of an iterator they have what had not been taken.
    """

    def __init__(self, message, results=None, errors=None):
        # type: (str, dict | None, dict | None) -> None
        super(DeadlineExceeded, self).__init__(message)
        self.results = {} if results is None else results
        self.errors = {} if errors is None else errors


class Interrupted(KeyboardInterrupt):
    """Ctrl-C (or SIGTERM) during a job, which the cluster survives. results, errors: dicts of what was done."""

    def __init__(self, results=None, errors=None):
        # type: (dict | None, dict | None) -> None
        super(Interrupted, self).__init__()
        self.results = {} if results is None else results
        self.errors = {} if errors is None else errors

    def __str__(self):
        # type: () -> str
        return "%d results and %d errors are in .results and .errors" % (len(self.results), len(self.errors))


class JournalError(ClusterError):
    """The journal cannot be used; nothing in it was changed, and nothing was run."""


class StartError(ClusterError):
    """No worker process can be started, here or on any node; the text says why."""


class WorkerDied(ClusterError):
    """The worker process died each time it ran this task.

    exit: what became of the process, in words ("killed by signal 9 (SIGKILL)", "exit code 3").
    nodes: names of the nodes it died on, one per attempt.
    lines: the last lines it wrote.
    peak_memory: the most bytes it had in memory; None where the system does not tell.
    argument: the task's; of a submitted call its only argument, the tuple of them, or (arguments, keywords).
    """

    def __init__(self, message, exit="", nodes=(), lines=(), peak_memory=None, argument=None):
        # type: (str, str, object, object, int | None, object) -> None
        super(WorkerDied, self).__init__(message)
        self.exit = exit
        self.nodes = list(nodes)  # type: ignore[call-overload]
        self.lines = list(lines)  # type: ignore[call-overload]
        self.peak_memory, self.argument = peak_memory, argument


class RemoteError(ClusterError):
    """An exception on a node that cannot be rebuilt here: its type's name and its text."""

    def __init__(self, message, type_name=""):
        # type: (str, str) -> None
        super(RemoteError, self).__init__(message)
        self.type_name = type_name


class RemoteTraceback(Exception):
    """Carries the traceback's text of a remote exception, so that it prints with it."""

    def __init__(self, tb):
        # type: (str) -> None
        super(RemoteTraceback, self).__init__(tb)
        self.tb = tb

    def __str__(self):
        # type: () -> str
        return '\n"""\n%s"""' % self.tb


class ConnectionFailed(ClusterError):
    """The other end could not be reached, or is not what it should be."""


class AuthenticationError(ConnectionFailed):
    """The two sides do not hold the same key."""


class VersionMismatch(ConnectionFailed):
    """The two sides cannot work together; the text names both versions and the remedy."""


class HandshakeTimeout(ConnectionFailed):
    """The other end accepted the connection and did not answer in time."""


class ProtocolError(ConnectionFailed):
    """The bytes that arrived are not this protocol, or were changed on the way."""


class FrameTooLarge(ProtocolError):
    """One object exceeds the limit; the text names both sizes and the option."""


class InternalError(ClusterError):
    """An invariant of this package broke. Please report the text: it tells what happened."""
