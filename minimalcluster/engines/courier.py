"""The thread that talks to an engine, which may take its time; the cluster's thread must not wait for it."""

import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, Callable, Deque, Dict, List, Tuple, Type

from ..compat import queue
from ..logs import log
from ..wire import protocol
from .flights import Flight
from .worker import Brought, Need, run_chunk

#: A definition up to this size goes with every chunk; a longer one only to a worker process that lacks it.
ATTACH_BYTES_MAX = 4 << 10
#: Names of dropped shared objects that go with every chunk.
DROPPED_MAX = 100


class Backend:
    """What an engine does for us. Its methods are called from one thread, and may take their time."""

    #: For people.
    name = "engine"
    #: How a call ends whose worker process died.
    died: Tuple[Type[BaseException], ...] = ()
    #: A call that ends so is the one whose process died; else it may have been a neighbour.
    exact = False
    #: Its workers come and go.
    elastic = False

    def workers(self) -> int:
        """How many calls run at a time; 0: none at the moment."""
        raise NotImplementedError

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        raise NotImplementedError

    def keep(self, brought: Brought) -> object:
        """What may stand for something that goes to several workers, as an argument of ``submit``."""
        return brought

    def cancel(self, future: "Future[Any]", running: bool) -> None:
        """Do not begin the call; with ``running`` its result is of no use to anybody, so end it if you can."""
        future.cancel()

    def close(self) -> None:
        """No master uses it any more."""


class Courier:
    """``put`` is called in the cluster's thread; the other methods run in the courier's own, in that order.

    token: the master's name among those that use the same worker processes. call: the loop's, by which the cluster's
    thread hears of outcomes.
    """

    def __init__(self, backend: Backend, token: str, call: Callable[..., None]) -> None:
        self._backend, self._token, self._call = backend, token, call
        self._errands: "queue.Queue[Tuple[Callable[..., None], Tuple[Any, ...]]]" = queue.Queue()
        self._brought: Dict[Need, Brought] = {}
        self._kept: Dict[Need, object] = {}  # what stands for the long ones of these
        self._dropped: Deque[str] = deque(maxlen=DROPPED_MAX)
        self._ended = False
        threading.Thread(target=self._run, name="minimalcluster-engine", daemon=True).start()

    def put(self, errand: Callable[..., None], *arguments: Any) -> None:
        self._errands.put((errand, arguments))

    def knows(self, need: Need) -> bool:
        """Called in the cluster's thread. A module that was missing may be there later; a shared object stays what it
        is."""
        return need[0].startswith("share") and need in self._brought

    def _run(self) -> None:
        while not self._ended:
            errand, arguments = self._errands.get()
            errand(*arguments)
            del errand, arguments  # free a payload before waiting for the next errand

    def count(self, counted: Callable[[int], None]) -> None:
        try:
            workers = self._backend.workers()
        except Exception as error:  # a closed client, for example; the next call's error reaches the user
            log.debug("the workers of %s cannot be counted: %s", self._backend.name, error)
        else:
            self._call(counted, workers)

    def learn(self, need: Need, info: Dict[str, Any], buffers: List[bytes]) -> None:
        self._brought[need] = (need, info, buffers)
        self._kept.pop(need, None)

    def forget(self, need: Need) -> None:
        self._brought.pop(need, None)
        self._kept.pop(need, None)

    def drop(self, name: str) -> None:
        self._dropped.append(name)
        self.forget(("share", name))
        self.forget(("share bytes", name))

    def submit(
        self, flight: Flight, number: int, grant: protocol.Grant, needs: List[Need], landed: Callable[..., None]
    ) -> None:
        """``landed(flight, number, outcome, error)`` is called at its end: what ``run_chunk`` returned, or None and
        what happened instead."""
        try:
            things = [self._thing(need) for need in needs]
            future = self._backend.submit(run_chunk, self._token, tuple(self._dropped), grant, *things)
        except BaseException as error:
            self._call(landed, flight, number, None, error)
            return
        flight.future = future

        def done(future: "Future[Any]") -> None:
            try:
                outcome, error = future.result(), None
            except BaseException as raised:
                outcome, error = None, raised
            if flight.future is future:
                flight.future = None  # some engines keep the result as long as there is a future
            self._call(landed, flight, number, outcome, error)

        future.add_done_callback(done)

    def _thing(self, need: Need) -> object:
        brought = self._brought.get(need)
        if brought is None:
            return need, {"found": False}, []
        if sum(map(len, brought[2])) <= ATTACH_BYTES_MAX:
            return brought
        if need not in self._kept:
            self._kept[need] = self._backend.keep(brought)
        return self._kept[need]

    def cancel(self, flight: Flight, running: bool) -> None:
        future = flight.future
        if future is not None:
            try:
                self._backend.cancel(future, running)
            except Exception as error:
                log.debug("%s cannot cancel a call: %s", self._backend.name, error)

    def end(self, closed: Callable[[], None]) -> None:
        self._ended = True
        self._brought.clear()
        self._kept.clear()
        try:
            self._backend.close()
        except Exception as error:  # the master's end goes on
            log.warning("%s cannot be closed: %s", self._backend.name, error)
        self._call(closed)
