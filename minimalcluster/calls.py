"""What an executor is without its face: streams of submitted calls, their terms, the end of it all."""

import atexit
import os
import threading
import time
import weakref
from collections import namedtuple
from concurrent.futures import CancelledError
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Set, Tuple

from . import errors, functions, leases, shares
from .cluster import Cluster
from .compat import hexadecimal
from .futures import BrokenClusterExecutor
from .imports import REFRESH_SECONDS
from .jobs import End, Failure, Job, Outcomes
from .status import ClusterStatus

AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"

#: What the calls made through one view of an executor have in common; timeout: seconds for each call.
#: journal: the file of a map's outcomes.
Terms = namedtuple("Terms", "options timeout journal")
TERMS = Terms(leases.DEFAULTS, None, None)

#: What waits for a call: it is asked to be handed out, and told what came of it.
Waiting = Any


class Stream(Job):
    """Calls submitted one by one; each task is a pickled (function, arguments, keywords)."""

    closed = False
    name = "calls"

    def __init__(self, core: "Core", needs: str, terms: Terms) -> None:
        super().__init__()
        self.total = 0
        self.options = core.options(terms)
        self._core = core
        self._definition = core.definition("calls", needs, terms.timeout)
        self._waiting: Dict[int, Tuple[Waiting, bytes]] = {}
        self.number = core.cluster.submit(self)
        self.thread = threading.Thread(target=self._deliver_all, name="minimalcluster-results", daemon=True)
        self.thread.start()

    def definition(self) -> Tuple[Dict[str, object], List[bytes]]:
        return self._definition

    def add(self, future: Waiting, data: bytes) -> None:
        """Under the core's lock."""
        future.place = self, self.total
        self._waiting[self.total] = future, data
        self.total += 1
        self._core.cluster.grew(self.number, self)

    def encode(self, first: int, count: int) -> List[bytes]:
        buffers = [b"E"]
        for index in range(first, first + count):
            future, data = self._waiting.get(index, (None, b""))
            # Of one that was cancelled there is nothing to run, and its outcome interests nobody.
            buffers.append(data if future is not None and future.hand_out() else b"")
        return buffers

    def close(self) -> None:
        self.closed = True
        self._core.cluster.grew(self.number, self)
        self._end_if_all_were_cancelled()

    def forget(self, index: int) -> None:
        """It was cancelled before it was handed out."""
        self._waiting.pop(index, None)
        self._end_if_all_were_cancelled()

    def _end_if_all_were_cancelled(self) -> None:
        """Where no node is, nobody else would end it."""
        if self.closed and not self._waiting:
            self._core.cluster.cancel(self.number)

    def cancel_waiting(self) -> None:
        for future, _ in list(self._waiting.values()):
            future.cancel()

    def cancel_running(self, index: int) -> None:
        self._waiting.pop(index, None)
        self._core.cluster.cancel_task(self.number, index)

    def _deliver_all(self) -> None:
        while True:
            arrival = self.take(None)
            if isinstance(arrival, End):
                break
            if arrival is not None:
                self._deliver(arrival)
                arrival = None  # nothing here keeps a result while the next one is waited for
        error = self._core.ended(self, arrival.error) or CancelledError()
        for index in sorted(self._waiting):
            self._resolve(index, Failure(error, ""))
        self._core.delivering.discard(self)

    def _deliver(self, outcomes: Outcomes) -> None:
        index = outcomes.first
        outcomes.values.reverse()
        while outcomes.values:
            self._resolve(index, outcomes.values.pop())
            index += 1

    def _resolve(self, index: int, outcome: object) -> None:
        future, _ = self._waiting.pop(index, (None, b""))
        if future is not None:
            future.resolve(outcome)


class Core:
    """What an executor is without its face: cluster, streams, initializer. Outlives a dropped face until idle."""

    def __init__(
        self, cluster: Cluster, owned: bool, initializer: "Optional[functions.Packed]", leave_after: Optional[int]
    ) -> None:
        self.cluster, self._owned = cluster, owned
        self._lock = threading.RLock()  # re-entered when garbage collection drops the face right here
        self._streams: Dict[Tuple[str, Terms], Stream] = {}
        self.delivering: Set[Stream] = set()  # also those that take no more calls
        self.maps: Set[Any] = set()  # MapJobs: they know this file, it does not know them
        self._shut = False
        self._stopping: Optional[threading.Thread] = None
        self.broken: Optional[BrokenClusterExecutor] = None
        self.pid = os.getpid()
        self.ends_at_exit = False  # do not finish what waits when the interpreter ends
        self._served, self._look_at = 0, 0.0
        self._token = hexadecimal(os.urandom(8))
        self._initializer, self._leave_after = initializer, leave_after
        self.repeats = shares.Repeats(cluster.share)
        _open_cores.add(self)

    def packed_call(
        self, function: Callable[..., Any], args: Iterable[Any], keywords: Mapping[str, Any]
    ) -> functions.Packed:
        """The pickle of one call; large arguments that have come before as handles. Raises what pickling raises."""
        large = self.repeats.swapped
        return functions.pack((function, tuple(map(large, args)), {name: large(keywords[name]) for name in keywords}))

    def definition(self, kind: str, needs: str, timeout: Optional[float]) -> Tuple[Dict[str, object], List[bytes]]:
        wanted = {needs} if self._initializer is None else {needs, self._initializer.needs}
        info: Dict[str, object] = {"kind": kind}
        buffers: List[bytes] = []
        for need in sorted(wanted):
            more, brought = functions.requirements(need)
            info.update(more)
            buffers += brought
        if self._initializer is not None:
            info["initializer"] = self._token
            buffers.append(self._initializer.data)
        if self._leave_after is not None:
            info["leave_after"] = self._leave_after
        if timeout is not None:
            info["timeout"] = timeout
        return info, buffers

    def options(self, terms: Terms) -> leases.Options:
        """A call that may be ended with its worker process, or is the last one there, travels alone."""
        alone = terms.timeout is not None or self._leave_after is not None
        return terms.options._replace(chunksize=1) if alone else terms.options

    def slots(self) -> int:
        """Worker processes, everywhere and now."""
        return sum(each.nprocs for each in self.cluster.workers() if each.connected)

    def status(self) -> ClusterStatus:
        with self._lock:
            numbers = {job.number for job in list(self.delivering) + list(self.maps)}
        return self.cluster.status(numbers)

    def check(self) -> None:
        if self.pid != os.getpid():
            raise RuntimeError(
                "this executor belongs to the process that made it; a fork cannot use it: make a new one"
            )
        if self.broken is not None:
            error = BrokenClusterExecutor(str(self.broken))
            raise error from self.broken.__cause__
        if self._shut:
            raise RuntimeError(AFTER_SHUTDOWN)

    def submit(self, waiting: Waiting, packed: functions.Packed, terms: Terms) -> None:
        with self._lock:
            self.check()
            self._notice_edits()
            stream = self._streams.get((packed.needs, terms))
            if stream is None:
                stream = self._streams[packed.needs, terms] = Stream(self, packed.needs, terms)
                self.delivering.add(stream)
            stream.add(waiting, packed.data)

    def _notice_edits(self) -> None:
        """A definition tells nodes what was edited: later calls go into streams, and so definitions, of their own."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + REFRESH_SECONDS
        served = self.cluster.served()
        if served != self._served:
            self._served = served
            streams, self._streams = self._streams, {}
            for stream in streams.values():
                stream.close()

    def submit_map(self, job: Any) -> None:
        with self._lock:
            self.check()
            job.number = self.cluster.submit(job)  # an engine may refuse it
            self.maps.add(job)

    def ended(self, job: Job, error: Optional[BaseException]) -> Optional[BaseException]:
        """A job is over; what those who still wait for it are told. Later calls too, if it cannot get better."""
        with self._lock:
            for key in [key for key, stream in self._streams.items() if stream is job]:
                del self._streams[key]
            if error is None:
                return self.broken
            broken = BrokenClusterExecutor(str(error))
            broken.__cause__ = error
            cause = getattr(error.__cause__, "type_name", None)
            if self.broken is None and (not isinstance(error, errors.SourceError) or cause == "InitializerError"):
                self.broken = broken
            return broken

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        if self.pid != os.getpid():
            return  # a fork's copy; the executor lives on where it was made
        with self._lock:
            first, self._shut = not self._shut, True
            streams, maps = list(self.delivering), list(self.maps)
        if cancel_futures:
            self.cluster.settle()
            for stream in streams:
                stream.cancel_waiting()
            for job in maps:
                self.cluster.stop_job(job.number)
        if first:
            for stream in streams:
                stream.close()
            self._stopping = threading.Thread(
                target=self._stop, args=(streams, maps), name="minimalcluster-shutdown", daemon=True
            )
            self._stopping.start()
        stopping, current = self._stopping, threading.current_thread()
        if wait and stopping is not None and current is not stopping and current not in [s.thread for s in streams]:
            self.join()

    def terminate(self, why: str) -> None:
        """End everything now: what waits and what runs."""
        if self.pid != os.getpid():
            return
        with self._lock:
            if self.broken is None:
                self.broken = BrokenClusterExecutor(why)
            streams, maps = list(self.delivering), list(self.maps)
        for job in maps:
            job.cancel()
        for stream in streams:
            self.cluster.cancel(stream.number)
        self.shutdown(False, False)

    def join(self) -> None:
        for job in list(self.maps):
            job.wait_for_nobody()
        if self._stopping is not None:
            self._stopping.join()

    def _stop(self, streams: List[Stream], maps: List[Any]) -> None:
        """When everything submitted is done, the workers leave."""
        for job in maps:
            job.finish_reading()
        for job in maps:
            job.over.wait()
        for stream in streams:
            stream.thread.join()
        self.repeats.drop()
        if self._owned:
            self.cluster.stop()
        _open_cores.discard(self)


_open_cores: "weakref.WeakSet[Core]" = weakref.WeakSet()


def finish_all() -> None:
    """Work submitted before the interpreter's exit is finished, as the standard's executors do."""
    for core in list(_open_cores):
        if core.ends_at_exit:
            core.terminate("the interpreter ends")
        core.shutdown(True, False)


if hasattr(threading, "_register_atexit"):
    threading._register_atexit(finish_all)  # before the interpreter refuses new threads (3.9 on)
else:
    atexit.register(finish_all)
