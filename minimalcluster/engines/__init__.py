"""Dask, Ray or any ``concurrent.futures.Executor`` in the place of our nodes: what a user imports.

The names are loaded when they are used, because an engine's worker process imports this package as well, for
``worker.py``, and needs nothing of the master's side.
"""

import importlib
import sys
import types

TYPE_CHECKING = False  # type checkers take it for true, under this name
if TYPE_CHECKING:
    from .engines import (
        DaskEngine as DaskEngine,
        Engine as Engine,
        ExecutorEngine as ExecutorEngine,
        RayEngine as RayEngine,
    )

__all__ = ["DaskEngine", "Engine", "ExecutorEngine", "RayEngine"]


class _Lazy(types.ModuleType):
    def __getattr__(self, name: str) -> object:
        if name in __all__:
            return getattr(importlib.import_module(__name__ + ".engines"), name)
        raise AttributeError("module %r has no attribute %r" % (__name__, name))

    def __dir__(self) -> "list[str]":
        return sorted(list(globals()) + __all__)


sys.modules[__name__].__class__ = _Lazy  # 3.6 does not know a module's own __getattr__
