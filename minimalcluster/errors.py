# -*- coding: utf-8 -*-
"""The exceptions of this package. Each names the side that caused it.

::

    ClusterError
    ├── UsageError              the call was wrong; nothing was sent and nothing has changed
    │   ├── ArgumentsError      load_args: not a sequence, a duplicate, unhashable, cannot be pickled
    │   ├── SourceError         the environment ran and raised, here or on every node
    │   ├── InitializerError    the initializer raised in a worker process
    │   ├── TargetError         the function's name is not in the environment, or not callable
    │   ├── KeyFileError        the key file is not there, or others can read it; its text says what to do
    │   └── StateError          the call came too early or too late (no function, shut down)
    ├── TaskError               your function raised; .results and .errors hold every outcome
    ├── ResultError             your function's result cannot be pickled; its cause is the error of pickling
    ├── UnsafeResult            a result that ``results="safe"`` refuses; its text names what it asked for
    ├── TaskTimeout             your function took longer than ``timeout=``
    ├── DeadlineExceeded        the job took longer than ``deadline=``; .results and .errors have what was done
    ├── JournalError            the journal is of another job, changed or in use; its text says which
    ├── StartError              no worker process can be started; its text says why
    ├── WorkerDied              the worker process died under this task, attempts_max times
    ├── RemoteError             in place of a remote exception that cannot be rebuilt here
    ├── ConnectionFailed        the network, or the program at the other end
    │   ├── AuthenticationError     one side could not prove that it knows the key
    │   ├── VersionMismatch         Python 2 with 3, or two wire versions
    │   ├── EncryptionError         one side asks for encryption that the other refuses, or that cannot be had
    │   ├── HandshakeTimeout        the other end accepted the connection and did not answer
    │   └── ProtocolError           the bytes that arrived are not this protocol
    │       └── FrameTooLarge       one object is larger than the limit
    └── InternalError           a bug of this package: an invariant broke; its text has the history

    Interrupted                 Ctrl-C: a KeyboardInterrupt with .results and .errors of what was done
    RemoteTraceback             the text of a traceback on a node, as the ``__cause__`` of its exception

A missing file, a syntax error and a bad port raise Python's own exceptions (``IOError``,
``SyntaxError``, ``ValueError``), whose texts already name the value.
"""
from __future__ import absolute_import, division, print_function

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Iterable  # noqa: F401 # novm


class ClusterError(Exception):
    """Base of all errors of this package."""


class UsageError(ClusterError):
    """The call was wrong and has changed nothing."""


class ArgumentsError(UsageError, TypeError, ValueError):
    """The arguments are not a sequence of unique, hashable, picklable values. The text has the index and the value."""


class SourceError(UsageError):
    """The environment's source raised while it was run; the original exception is the cause."""


class InitializerError(UsageError):
    """The initializer raised in a worker process; the text has its exception."""


class TargetError(UsageError, ValueError):
    """The environment does not define the registered name, or it cannot be called."""


class KeyFileError(UsageError):
    """The key file cannot be used: not there, readable by others, another user's, a link; the text says what to do."""


class StateError(UsageError, RuntimeError):
    """The call is not possible now: no function is registered, the cluster is not started, or it is shut down."""


class TaskError(ClusterError):
    """At least one task raised. ``__cause__`` is the first failure's own exception.

    argument, node: of the first failure.
    results: dict argument -> result, of all tasks that succeeded.
    errors: dict argument -> exception, of all tasks that failed.
    """

    def __init__(self, message, argument=None, node=None, results=None, errors=None):
        # type: (str, object, object, dict | None, dict | None) -> None
        super(TaskError, self).__init__(message)
        self.argument = argument
        self.node = node
        self.results = {} if results is None else results
        self.errors = {} if errors is None else errors


class ResultError(ClusterError, TypeError):
    """The result cannot be sent back. value: its repr. ``__context__`` is the exception of pickling."""

    def __init__(self, message, value=""):
        # type: (str, str) -> None
        super(ResultError, self).__init__(message, value)
        self.value = value

    def __str__(self):
        # type: () -> str
        return str(self.args[0])


class UnsafeResult(ClusterError):
    """The result consists of more than plain values, and was not unpickled, because of ``results="safe"``."""


class TaskTimeout(ClusterError):
    """The call took longer than ``timeout=``, and was ended by killing its worker process."""


class DeadlineExceeded(ClusterError):
    """The job's ``deadline=`` has passed. results, errors: dicts of the tasks that were done by then.

    For an iterator, without the results that were already taken from it.
    """

    def __init__(self, message, results=None, errors=None):
        # type: (str, dict | None, dict | None) -> None
        super(DeadlineExceeded, self).__init__(message)
        self.results = {} if results is None else results
        self.errors = {} if errors is None else errors


class Interrupted(KeyboardInterrupt):
    """Ctrl-C (or SIGTERM) during a job; the cluster goes on. results, errors: dicts of the tasks that were done."""

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

    exit: how the process ended ("killed by signal 9 (SIGKILL)", "exit code 3").
    nodes: names of the nodes where it died, one per attempt.
    lines: the last lines that the process wrote.
    peak_memory: the process's peak memory in bytes; None if the system does not report it.
    argument: the task's argument. For a submitted call: its only argument, the tuple of its arguments, or (arguments,
    keywords).
    """

    def __init__(self, message, exit="", nodes=(), lines=(), peak_memory=None, argument=None):
        # type: (str, str, Iterable[str], Iterable[str], int | None, object) -> None
        super(WorkerDied, self).__init__(message)
        self.exit = exit
        self.nodes = list(nodes)
        self.lines = list(lines)
        self.peak_memory, self.argument = peak_memory, argument


class RemoteError(ClusterError):
    """In place of an exception on a node that cannot be rebuilt here: the name of its type, and its text."""

    def __init__(self, message, type_name=""):
        # type: (str, str) -> None
        super(RemoteError, self).__init__(message)
        self.type_name = type_name


class RemoteTraceback(Exception):
    """The text of a remote exception's traceback. As the exception's cause it is printed with it."""

    def __init__(self, tb):
        # type: (str) -> None
        super(RemoteTraceback, self).__init__(tb)
        self.tb = tb

    def __str__(self):
        # type: () -> str
        return '\n"""\n%s"""' % self.tb


class ConnectionFailed(ClusterError):
    """The other end cannot be reached, or is not a part of this cluster."""

    reply = b""  # what the other end is sent before the connection closes, so that it knows why


class AuthenticationError(ConnectionFailed):
    """The two sides do not have the same key."""


class VersionMismatch(ConnectionFailed):
    """The two sides cannot work together; the text has both versions and says what to do."""


class EncryptionError(ConnectionFailed):
    """One side asks for encryption, and the other refuses it or its Python has none; nothing goes on without it."""


class HandshakeTimeout(ConnectionFailed):
    """The other end accepted the connection and did not answer in time."""


class ProtocolError(ConnectionFailed):
    """The bytes that arrived are not this protocol, or were changed on the way."""


class FrameTooLarge(ProtocolError):
    """One object is larger than the limit; the text has both sizes and the name of the option."""


class InternalError(ClusterError):
    """An invariant of this package broke. Please report the text: it has the history of what happened."""
