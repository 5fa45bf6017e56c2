"""What runs in an engine's worker process: a chunk, in the way in which a worker process of ours runs it.

``run_chunk`` uses node/chunks.py, as it does. What that would send is returned; where it would wait for an answer, the
chunk ends, says what it lacks, and is sent again with that, from the first task without a report on.

A worker process loads nothing of the master's side: this file imports ``node`` and what is below it.
"""

import os
import sys
import threading
import types
from collections import OrderedDict
from typing import Any, Callable, Dict, List, Optional, Tuple

from .. import errors
from ..node.chunks import ChunkRunner, Known
from ..payload import functions, shares
from ..pieces import Pieces
from ..wire import protocol

#: What a worker process remembers: masters, and jobs of each.
PLACES_MAX, DEFINITIONS_MAX = 4, 16

#: What a chunk may lack: ("definition", job), ("module", name), ("share", name) ...
Need = Tuple[str, Any]
#: What the master answers: info, buffers.
Answer = Tuple[Dict[str, Any], List[memoryview]]
#: A need's answer, as it travels: need, info, buffers.
Brought = Tuple[Need, Dict[str, Any], List[Any]]


def run_chunk(
    token: str, dropped: Tuple[str, ...], grant: protocol.Grant, *brought: Brought
) -> "Tuple[List[Any], Optional[Need]]":
    """What a worker process of ours does with a Grant: (its reports, what it lacks to go on or None)."""
    place = _place(token)
    for name in dropped:
        place.shared.pop(name, None)
    chunk = _Chunk(place, brought)
    before = getattr(_thread, "chunk", None)
    _thread.chunk = chunk
    try:
        chunk.run(grant)
    finally:
        _thread.chunk = before
    return chunk.reports, chunk.lacking


class _Lacking(BaseException):
    """Unwinds a chunk that cannot go on without something."""


class _Place(Known):
    """What the chunks of one master have in common in this process, whatever thread runs them."""

    def __init__(self) -> None:
        super().__init__(_fetch, first=False)
        self._loading = threading.RLock()  # one thread at a time runs an environment's or a module's source
        self.definitions: "OrderedDict[int, protocol.DefineJob]" = OrderedDict()

    def knows(self, job: int, brought: "Optional[Answer]") -> bool:
        """Whether the job is defined here, perhaps by this answer."""
        with self._loading:
            if job in self.definitions:
                self.definitions.move_to_end(job)
            elif brought is not None:
                self.define(protocol.DefineJob(job, *brought))
                while len(self.definitions) > DEFINITIONS_MAX:
                    self.forget(next(iter(self.definitions)))
            return job in self.definitions

    def use_code(self, job: int) -> None:
        with self._loading:
            super().use_code(job)

    def function(self, job: int) -> Callable[[Any], object]:
        with self._loading:
            if job not in self.functions:
                self.definitions[job] = _with_this_main(self.definitions[job])
            return super().function(job)

    def resolve(self, name: str) -> object:
        if name in self.shared:
            return self.shared[name]
        info, buffers = self.fetch("share", name)
        if info.get("found") and not os.path.exists(info["path"]):  # this is another machine
            info, buffers = self.fetch("share bytes", name)
        if not info.get("found"):
            raise errors.StateError("the shared object %s cannot be had: it was dropped" % name)
        functions.prepare(info.get("needs", ""))
        self.shared[name] = shares.rebuilt(buffers) if buffers else shares.load(info)
        return self.shared[name]


_thread = threading.local()  # .chunk: the one that this thread runs
_places: "OrderedDict[Tuple[str, int], _Place]" = OrderedDict()
_places_lock = threading.Lock()


def _place(token: str) -> _Place:
    key = (token, os.getpid())  # a forked process inherits the table, and locks in any state
    with _places_lock:
        if key not in _places:
            _places[key] = _Place()
            shares.resolver = _resolve
            if _Imports not in sys.meta_path:
                sys.meta_path.append(_Imports)
            while len(_places) > PLACES_MAX:
                _places.popitem(last=False)
        _places.move_to_end(key)
        return _places[key]


def _current() -> "_Chunk":
    chunk = getattr(_thread, "chunk", None)
    if chunk is None:
        raise errors.StateError("only a task's own thread can ask the master for something")
    return chunk


def _fetch(what: str, name: str) -> Answer:
    return _current().fetch(what, name)


def _resolve(name: str) -> object:
    return _current().place.resolve(name)


class _Imports:
    """In ``sys.meta_path``: what this thread's chunk cannot import here may come from its master."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: Optional[types.ModuleType] = None) -> Any:
        chunk = getattr(_thread, "chunk", None)
        return None if chunk is None else chunk.place.finder.find_spec(fullname, path, target)


class _Chunk:
    """One call of the engine: what a worker process would send is kept, what it would wait for ends the call."""

    def __init__(self, place: _Place, brought: Tuple[Brought, ...]) -> None:
        self.place, self._pid = place, os.getpid()
        self._brought: Dict[Need, Answer] = {}
        for need, info, buffers in brought:
            self._brought[need] = info, [memoryview(buffer) for buffer in buffers]
        self.reports: List[Any] = []
        self.lacking: Optional[Need] = None

    def run(self, grant: protocol.Grant) -> None:
        need = ("definition", grant.job)
        if not self.place.knows(grant.job, self._brought.get(need)):
            self.lacking = need
            return
        try:
            ChunkRunner(self.place, self.send).run(grant)
        except _Lacking:
            pass

    def fetch(self, what: str, name: str) -> Answer:
        need = (what, name)
        if need not in self._brought:
            self.lacking = need
            raise _Lacking
        return self._brought[need]

    def send(self, message: Any) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # the task forked and came back twice: only the first of them speaks
        if self.lacking is not None:
            raise _Lacking  # a task that caught the first one has made something of half a world
        if hasattr(message, "payload"):
            message = message._replace(payload=plain(message.payload))
        self.reports.append(message)


def _with_this_main(definition: protocol.DefineJob) -> protocol.DefineJob:
    """Functions of a script travel without cloudpickle only to processes that have loaded the script themselves."""
    info = definition.info
    if "main" not in info:
        return definition
    ours = getattr(sys.modules.get("__main__"), "__file__", None)
    if ours is None or os.path.abspath(ours) != os.path.abspath(info["main"]):
        raise errors.UsageError(
            "the functions of the script %s cannot travel to this engine's workers: pip install cloudpickle where "
            "the master is, or put them into a module" % info["main"]
        )
    return definition._replace(info={name: value for name, value in info.items() if name != "main"})


def plain(buffers: List[Any]) -> List[bytes]:
    """What any engine's pickle can carry."""
    return [buffer.joined() if isinstance(buffer, Pieces) else bytes(buffer) for buffer in buffers]
