"""Cluster computing with nothing but Python: one function, many arguments, any machines.

    from minimalcluster import MasterNode     on the machine that holds the work
    from minimalcluster import WorkerNode     on every machine that helps

``python -m minimalcluster demo`` shows it at work. README.md has the first script.
"""
from __future__ import absolute_import, division, print_function

import sys
from types import ModuleType as _ModuleType

__version__ = "1.0.0.dev1"

TYPE_CHECKING = False  # type checkers take it for true, under this name
if TYPE_CHECKING:
    from .errors import (
        ArgumentsError as ArgumentsError,
        AuthenticationError as AuthenticationError,
        ClusterError as ClusterError,
        ConnectionFailed as ConnectionFailed,
        DeadlineExceeded as DeadlineExceeded,
        EncryptionError as EncryptionError,
        FrameTooLarge as FrameTooLarge,
        HandshakeTimeout as HandshakeTimeout,
        InitializerError as InitializerError,
        InternalError as InternalError,
        Interrupted as Interrupted,
        JournalError as JournalError,
        KeyFileError as KeyFileError,
        ProtocolError as ProtocolError,
        RemoteError as RemoteError,
        RemoteTraceback as RemoteTraceback,
        ResultError as ResultError,
        SourceError as SourceError,
        StartError as StartError,
        StateError as StateError,
        TargetError as TargetError,
        TaskError as TaskError,
        TaskTimeout as TaskTimeout,
        UnsafeResult as UnsafeResult,
        UsageError as UsageError,
        VersionMismatch as VersionMismatch,
        WorkerDied as WorkerDied,
    )
    from .faces.executor import ClusterExecutor as ClusterExecutor
    from .faces.joblib_backend import register_joblib_backend as register_joblib_backend
    from .faces.pool import Pool as Pool
    from .master.masternode import MasterNode as MasterNode
    from .node.link import WorkerNode as WorkerNode

_HOMES = {
    "MasterNode": "master.masternode",
    "WorkerNode": "node.link",
    "ArgumentsError": "errors",
    "AuthenticationError": "errors",
    "ClusterError": "errors",
    "ConnectionFailed": "errors",
    "DeadlineExceeded": "errors",
    "EncryptionError": "errors",
    "FrameTooLarge": "errors",
    "HandshakeTimeout": "errors",
    "InitializerError": "errors",
    "InternalError": "errors",
    "Interrupted": "errors",
    "JournalError": "errors",
    "KeyFileError": "errors",
    "ProtocolError": "errors",
    "RemoteError": "errors",
    "RemoteTraceback": "errors",
    "ResultError": "errors",
    "SourceError": "errors",
    "StartError": "errors",
    "StateError": "errors",
    "TargetError": "errors",
    "TaskError": "errors",
    "TaskTimeout": "errors",
    "UnsafeResult": "errors",
    "UsageError": "errors",
    "VersionMismatch": "errors",
    "WorkerDied": "errors",
}

if sys.version_info >= (3, 6):  # the faces
    _HOMES["ClusterExecutor"] = "faces.executor"
    _HOMES["Pool"] = "faces.pool"
    _HOMES["register_joblib_backend"] = "faces.joblib_backend"

__all__ = sorted(_HOMES)


def _get(name):
    # type: (str) -> object
    module = __import__(__name__ + "." + _HOMES[name], fromlist=["_"])
    return getattr(module, name)


class _Lazy(_ModuleType):
    """A worker process imports this package and needs none of these names: it starts in half the time."""

    def __getattr__(self, name):
        # type: (str) -> object
        if name in _HOMES:
            return _get(name)
        raise AttributeError("module %r has no attribute %r" % (__name__, name))

    def __dir__(self):
        # type: () -> list
        return sorted(list(globals()) + __all__)


if sys.version_info >= (3, 6):
    # A module's own __getattr__ came with 3.7, this with 3.5.
    sys.modules[__name__].__class__ = _Lazy
else:  # py2
    # An import gives what stands in sys.modules; the module that is running keeps its globals while something has it.
    _lazy = _Lazy(__name__)
    _lazy.__dict__.update(globals(), _running=sys.modules[__name__])
    sys.modules[__name__] = _lazy
