"""An executor without its face: its cluster, the jobs of its calls and maps, and its end."""

import atexit
import os
import sys
import threading
import weakref
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from .. import errors
from ..brain.options import Options
from ..brain.status import ClusterStatus
from ..compat import hexadecimal, monotonic
from ..master.cluster import Cluster
from ..master.job import Job
from ..payload import functions, large, script, shares, sources, values
from .call_journal import CallJournal
from .calls import Calls, Given, Waiting
from .futures import BrokenClusterExecutor
from .order import Order, Run
from .turns import Turns

AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"

#: How often a submitted call looks for edited files of modules that this process has not imported.
LOOK_SECONDS = 1.0

#: There is one job of calls for each set of options. Idle ones are closed when there are so many.
CALLS_MAX = 8


def until(options: Options) -> Optional[float]:
    """When the deadline of a call that begins now passes: a moment of ``monotonic``, or None."""
    return None if options.deadline is None else monotonic() + options.deadline


class Core:
    """See the module's text. If the face is dropped, this lives on until all submitted work is done."""

    def __init__(
        self, cluster: Cluster, owned: bool, initializer: "Optional[functions.Packed]", leave_after: Optional[int]
    ) -> None:
        self.cluster, self._owned = cluster, owned
        self._lock = threading.RLock()  # reentrant: a garbage collection while it is held may drop the face
        self._calls: Dict[Tuple[str, Options], Calls] = {}
        self._order = Order()
        self._journals: Dict[str, CallJournal] = {}
        self.delivering: Set[Calls] = set()  # also closed ones, until their last outcome
        self.maps: Set[Any] = set()  # of MapJob, whose file imports this one
        self._shut = False
        self._stopping: Optional[threading.Thread] = None
        self._over = threading.Event()  # set when all work is done and the worker processes have ended
        self.broken: Optional[BrokenClusterExecutor] = None
        self.pid = os.getpid()
        self._size = 0  # the last answer of ``size``
        self._at_once = False  # kill the worker processes at the end
        self.ends_at_exit = False  # at the interpreter's end: terminate instead of finishing
        self._code, self._look_at = sources.loaded.current(), 0.0
        self._token = hexadecimal(os.urandom(8))
        self._initializer, self._leave_after = initializer, leave_after
        self.repeats = shares.Repeats(cluster.share_unasked)
        self.packing = Turns("minimalcluster-packing")  # inputs of maps that lie in memory
        self.collecting = Turns("minimalcluster-maps")  # results of maps that no thread of the user waits for
        _open_cores.add(self)

    def packed_call(
        self, function: Callable[..., Any], args: Iterable[Any], keywords: Mapping[str, Any], options: Options
    ) -> functions.Packed:
        """The pickle of one call. Large arguments that were sent before become handles. Raises what pickling raises."""
        if options.journal is not None:  # the key of a call must not depend on earlier calls
            return self.pack((function, tuple(args), dict(keywords)))
        given = [*args, *keywords.values()]
        end = len(given) - len(keywords)
        # No function with annotations: Python would evaluate these for each call.
        return self._packed(given, lambda all_: (function, tuple(all_[:end]), dict(zip(keywords, all_[end:]))))

    def packed_item(self, item: Any, star: bool) -> functions.Packed:
        """The pickle of an item of a map. star: the item is the tuple of the call's arguments."""
        return self._packed(item if star else [item], tuple if star else (lambda given: given[0]))

    def _packed(self, arguments: Sequence[Any], call: Callable[[List[Any]], object]) -> functions.Packed:
        swapped, held = self.repeats.swapped(arguments)
        pack = large.pack if any(map(values.is_large, swapped)) else functions.pack
        packed = pack(call(swapped), self.cluster.runs_scripts)
        if len(packed.data) >= shares.LARGE_BYTES:
            self.repeats.count(arguments, held, lambda value: len(self.pack(value).data))
        return packed._replace(held=held) if held else packed

    def pack(self, value: object) -> functions.Packed:
        """``functions.pack``, for the kind of worker processes that this cluster has."""
        return functions.pack(value, self.cluster.runs_scripts)

    def definition(self, kind: str, needs: str, timeout: Optional[float]) -> Tuple[Dict[str, object], List[bytes]]:
        if self._initializer is not None:
            needs = values.all_needs([needs, self._initializer.needs])
        info: Dict[str, object] = dict(functions.requirements(needs, self.cluster.runs_scripts), kind=kind)
        buffers: List[bytes] = []
        if self._initializer is not None:
            info["initializer"] = self._token
            buffers.append(self._initializer.data)
        if self._leave_after is not None:
            info["leave_after"] = self._leave_after
        if timeout is not None:
            info["timeout"] = timeout
        return info, buffers

    def scheduled(self, options: Options) -> Options:
        """For the scheduler. If worker processes are replaced after some chunks, each chunk is one task."""
        return options.scheduled() if self._leave_after is None else options.one_by_one()

    def size(self) -> int:
        """The cluster's ``slots``, for programs that divide by it: at least 1; the last number when all are gone."""
        self._size = self.cluster.slots or self._size
        return max(1, self._size)

    def status(self) -> ClusterStatus:
        self.cluster.check_process()
        with self._lock:
            numbers = {job.number for job in list(self.delivering) + list(self.maps)}
        return self.cluster.status(numbers)

    def check_process(self) -> None:
        if self.pid != os.getpid():
            raise RuntimeError(
                "this executor belongs to the process that made it; a fork cannot use it: make a new one"
            )

    def check(self) -> None:
        self.check_process()
        self._check_open()

    def _check_open(self) -> None:
        if self.broken is not None:
            error = BrokenClusterExecutor(str(self.broken))
            raise error from self.broken.__cause__
        if self._shut:
            raise RuntimeError(AFTER_SHUTDOWN)

    def submit(
        self, waiting: Waiting, packed: functions.Packed, options: Options, until: Optional[float], given: Given
    ) -> None:
        """until: the moment at which the call's deadline passes. Raises what opening the journal raises."""
        if options.deadline is not None or options.on_error is not None:  # these two concern the call, not its job
            options = options._replace(deadline=None, on_error=None)
        key = packed.needs, options
        with self._lock:
            self._check_open()
            self._notice_reloads()
            calls = self._calls.get(key)
            if calls is None:
                if len(self._calls) == CALLS_MAX:  # of more, each one that becomes idle ends by itself
                    self._close_idle()
                kept = None if options.journal is None else self._journal(options.journal)
                calls = self._calls[key] = Calls(self, key, kept)
                self.delivering.add(calls)
            calls.add(waiting, packed, until, given)

    def run_of(self, calls: Calls, task: int) -> Optional[Run]:
        """The run that a new call belongs to; None where calls need not begin in order. Called with the lock held."""
        if self.cluster.slots <= 1:
            return self._order.add(calls, task)
        self._order.release_all()
        return None

    def is_first(self, run: Run) -> bool:
        return self._order.is_first(run)

    def is_done(self, run: Run) -> None:
        with self._lock:
            self._order.done(run)

    def look_at_order(self) -> None:
        """Called after each change of ``slots``: ``run_of`` may have read the former number just before."""
        with self._lock:
            if self.cluster.slots > 1:
                self._order.release_all()

    def has_many_jobs(self) -> bool:
        """Each job has a thread, so a program that uses new options all the time would have more and more threads."""
        return len(self._calls) > CALLS_MAX

    def close_if_idle(self, key: Tuple[str, Options], calls: Calls) -> None:
        """A job that has nothing to wait for looks whether it is one too many."""
        with self._lock:
            if self.has_many_jobs() and calls.is_idle() and self._calls.get(key) is calls:
                self._calls.pop(key).close()

    def _close_idle(self) -> None:
        for key in [key for key, calls in self._calls.items() if calls.is_idle()]:
            self._calls.pop(key).close()

    def _journal(self, path: str) -> CallJournal:
        """All jobs share one object for each file: two could not write to the same file."""
        path = os.path.abspath(os.fspath(path))
        if path not in self._journals:
            self._journals[path] = CallJournal(path)
        return self._journals[path]

    def _notice_reloads(self) -> None:
        """A job keeps its code: calls that are submitted after a reload go into new jobs."""
        now = monotonic()
        look = now >= self._look_at
        if look:
            self._look_at = now + LOOK_SECONDS
        code = sources.loaded.current(look)
        if code is not self._code:
            self._code = code
            former, self._calls = self._calls, {}
            for calls in former.values():
                calls.close()

    def submit_map(self, job: Any) -> None:
        with self._lock:
            self.check()
            job.held = self._keeps_order() and self._order.hold(job)
            self.maps.add(job)  # before ``submit_to``: the job removes itself at its end, which may come at once
            try:
                job.submit_to(self.cluster)
            except BaseException:  # an engine may refuse it
                self.maps.discard(job)
                raise

    def _keeps_order(self) -> bool:
        """Whether a map waits for calls before it; not in a callback, since these calls may need its thread."""
        if self.cluster.slots > 1:
            return False
        return threading.current_thread() not in [calls.thread for calls in list(self.delivering)]

    def ended(self, job: Job, error: Optional[BaseException]) -> Optional[BaseException]:
        """A job has ended. Returns the error for those who still wait for it; a lasting one is for later calls, too."""
        with self._lock:
            for key in [key for key, calls in self._calls.items() if calls is job]:
                del self._calls[key]
            if error is None:
                return self.broken
            if not isinstance(error, (errors.SourceError, errors.StateError)):
                return error  # only this job failed: its function or arguments could not be sent
            broken = BrokenClusterExecutor(str(error))
            broken.__cause__ = error
            cause = getattr(error.__cause__, "type_name", None)
            if self.broken is None and (isinstance(error, errors.StateError) or cause == "InitializerError"):
                self.broken = broken
            return broken

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        if self.pid != os.getpid():
            return  # in a forked process, this is a copy of the parent's executor
        with self._lock:
            self._shut = True
            delivering, maps = list(self.delivering), list(self.maps)
        if cancel_futures:
            self.cluster.settle()
            for calls in delivering:
                calls.cancel_waiting()
            for job in maps:
                job.stop()
        given = delivering, maps
        thread = threading.Thread(target=self._stop, args=given, name="minimalcluster-shutdown", daemon=True)
        with self._lock:
            first, self._stopping = self._stopping is None, self._stopping or thread
        if first:
            for calls in delivering:
                calls.close()
            try:
                thread.start()
            except RuntimeError:  # 3.12.0 and 3.12.1 start no thread while the interpreter ends (gh-113964)
                self._stopping = threading.current_thread()
                self._stop(delivering, maps)
        if wait and not self._needs(threading.current_thread(), delivering):
            self.join()

    def _needs(self, thread: threading.Thread, delivering: List[Calls]) -> bool:
        """Whether the shutdown waits for this thread. Then a callback or ``__del__`` method in it must not wait."""
        threads = [self._stopping] + [calls.thread for calls in delivering]
        return self.cluster.in_own_thread() or thread in threads

    def terminate(self, why: str) -> None:
        """Cancel waiting calls and maps, and kill running ones, now."""
        if self.pid != os.getpid():
            return
        with self._lock:
            if self.broken is None:
                self.broken = BrokenClusterExecutor(why)
            self._at_once = True
            delivering, maps = list(self.delivering), list(self.maps)
        for job in maps:
            job.cancel()
        for calls in delivering:
            self.cluster.cancel(calls.number)
        self.shutdown(False, False)

    def join(self) -> None:
        for job in list(self.maps):
            job.wait_for_nobody()
        self._over.wait()

    def _stop(self, delivering: List[Calls], maps: List[Any]) -> None:
        """Wait until all submitted work is done; then end the worker processes."""
        try:
            self._finish(delivering, maps)
        finally:
            if self._owned:
                self.cluster.stop(self._at_once)
            _open_cores.discard(self)
            self._over.set()

    def _finish(self, delivering: List[Calls], maps: List[Any]) -> None:
        for job in maps:
            job.finish_reading()
        for job in maps:
            job.over.wait()
        for calls in delivering:
            calls.thread.join()
        for kept in self._journals.values():
            kept.close()
        self.repeats.drop()


_open_cores: "weakref.WeakSet[Core]" = weakref.WeakSet()


def finish_all() -> None:
    """At the interpreter's exit: finish submitted work, as concurrent.futures does, unless Ctrl-C has ended the script.
    (With concurrent.futures, Ctrl-C at a terminal ends the worker processes, too.)"""
    uncaught = getattr(sys, "last_type", None)  # set before this runs; at the prompt, by any earlier statement
    interrupted = uncaught is not None and issubclass(uncaught, KeyboardInterrupt) and not script.is_interactive()
    for core in list(_open_cores):
        if core.ends_at_exit or interrupted:
            core.terminate("the interpreter ends")
        core.shutdown(True, False)


if hasattr(threading, "_register_atexit"):
    threading._register_atexit(finish_all)  # 3.9 and later: runs before the interpreter refuses new threads
else:
    atexit.register(finish_all)
