"""The same program on what there is: Dask, Ray or any ``concurrent.futures.Executor`` in the place of our nodes.

::

    MasterNode, ClusterExecutor, Pool
       | jobs
    EngineCluster: a Cluster without a port; the same scheduler, jobs and library
       | Grant, Revoke, ...         ^ Done, Failed, Died, ...
    _EngineNode: its one node, whose slots are the engine's workers
       | submit(run_chunk, ...)     ^ those reports, and what the worker process lacked
    the engine ----> its worker processes: run_chunk is worker.py's own loop

Rules:

* The engine carries opaque bytes: a chunk's arguments there, its reports back.
* A chunk that lacks something (a long definition, a module, a shared object) comes back and says
  so; it is sent again, from the first task without a report on, with that thing. So nothing is sent
  twice to a process that has it, whatever process the engine chooses.
* When a worker process dies, engines cannot say which chunk did it. Those that were on their way are
  suspects: each runs alone, task by task, and only one that dies alone is reported as dead.
* What an engine may take its time for is done in the courier's thread, never in the cluster's.
"""

import concurrent.futures.process
import os
import sys
import threading
import types
from collections import OrderedDict, deque
from concurrent.futures import CancelledError, Executor, Future
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, List, Optional, Set, Tuple, Type, Union

from .. import errors
from ..brain import agent, scheduler
from ..compat import PICKLE_PROTOCOL_MAX, monotonic, queue
from ..faces import calls
from ..logs import log
from ..master.cluster import STOP_SECONDS, Cluster, _Session
from ..node.node import describe
from ..node.worker import Worker
from ..payload import functions, shares, values
from ..payload.imports import ClusterFinder
from ..wire import protocol

if TYPE_CHECKING:
    from ..master.job import Job

#: A definition up to this size goes with every chunk; a longer one only to who lacks it.
ATTACH_BYTES_MAX = 4 << 10
#: How often an engine whose workers come and go is asked for their number while there is work.
COUNT_SECONDS = 2.0
#: What a worker process of the engine remembers: masters, and jobs of each.
PLACES_MAX, DEFINITIONS_MAX, DROPPED_MAX = 4, 16, 100
#: What a definition may wish for that an engine cannot do, and what the user calls it.
WISHES = {"timeout": "timeout", "leave_after": "max_tasks_per_child"}

#: What a chunk may lack: ("definition", job), ("module", name), ("share", name) ...
Need = Tuple[str, Any]
#: A need's answer, as it travels: need, info, buffers.
Brought = Tuple[Need, Dict[str, Any], List[Any]]

if sys.version_info >= (3, 7):
    _BROKEN: Tuple[Type[BaseException], ...] = (concurrent.futures.BrokenExecutor,)
else:
    _BROKEN = (concurrent.futures.process.BrokenProcessPool,)


# -- engines --------------------------------------------------------------------------------------


class Engine:
    """What an engine does for us. Its methods are called from one thread, and may take their time."""

    #: For people.
    name = "engine"
    #: How a call ends whose worker process died.
    died: Tuple[Type[BaseException], ...] = ()
    #: A call that ends so is the one whose process died; else it may have been a neighbour.
    exact = False
    #: Its workers come and go.
    elastic = False

    def cluster(self) -> "EngineCluster":
        """What MasterNode and ClusterExecutor run on."""
        return EngineCluster(self)

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


class ExecutorEngine(Engine):
    """Any ``concurrent.futures.Executor``: ProcessPoolExecutor, MPIPoolExecutor, loky's, ipyparallel's, Parsl's.

    executor: the executor, which stays yours: shut it down yourself. Or a function that makes one:
    then it is made, replaced when a dying worker process breaks it, and shut down at the end.
    workers: how many calls it runs at a time, if it does not tell.
    """

    died = _BROKEN

    def __init__(self, executor: Union[Executor, Callable[[], Executor]], workers: Optional[int] = None) -> None:
        self._executor: Optional[Executor] = None
        self._make: Optional[Callable[[], Executor]] = None
        if isinstance(executor, Executor):
            self._executor = executor
        elif callable(executor):
            self._make = executor
        else:
            raise TypeError("an Executor or a function that makes one is needed, not %r" % (executor,))
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise ValueError("workers must be a whole number from 1 on, or None, not %r" % (workers,))
        self._workers = workers

    def workers(self) -> int:
        executor = self._made()
        if self._workers is None:
            self._workers = _workers_of(executor)
        return self._workers

    def _made(self) -> Executor:
        if self._executor is None and self._make is not None:
            self._executor = self._make()
        if not isinstance(self._executor, Executor):
            raise TypeError("%r made no Executor, but %r" % (self._make, self._executor))
        self.name = type(self._executor).__name__
        return self._executor

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        try:
            return self._made().submit(function, *arguments)
        except _BROKEN as error:
            let_go(self._made())
            if self._make is None:
                raise errors.StateError(
                    "a worker process died, and %s does not work after that (%s); give ExecutorEngine a function that "
                    "makes one, and it is replaced: ExecutorEngine(lambda: %s(...))" % (self.name, error, self.name)
                )
        # 3.7's and 3.8's pool closes its pipes under its own thread, which never ends then (bpo-39104).
        self._shut_down(wait=(3, 7) <= sys.version_info < (3, 9))
        return self._made().submit(function, *arguments)

    def close(self) -> None:
        # From 3.7 on the interpreter's end wakes pools, also one that is just closing the pipe which that goes through.
        self._shut_down(wait=sys.version_info >= (3, 7))

    def _shut_down(self, wait: bool) -> None:
        if self._make is not None and self._executor is not None:
            self._executor.shutdown(wait=wait)
            self._executor = None


def let_go(pool: Executor) -> None:
    """Of a broken pool. Before 3.7 its farewell to its worker processes, at its shutdown, when it is collected or at
    the interpreter's end, may wait for ever: for a lock that a killed one had, or for one that reads."""
    if sys.version_info < (3, 7) and isinstance(pool, concurrent.futures.process.ProcessPoolExecutor):
        pool._result_queue.put = lambda farewell: None
        pool._call_queue.cancel_join_thread()


def _workers_of(executor: Executor) -> int:
    for name in ("num_workers", "_max_workers"):  # mpi4py's; the standard library's and loky's
        number = getattr(executor, name, None)
        if isinstance(number, int) and number > 0:
            return number
    kind = type(executor).__name__
    raise ValueError("%s does not tell how many workers it has: ExecutorEngine(..., workers=)" % kind)


class DaskEngine(Engine):
    """The workers of a ``distributed.Client``. options: resources=, workers= ... of ``Client.get_executor``.

    Dask runs several tasks at a time in the threads of one process unless it is told otherwise
    (``threads_per_worker=1``): an environment's global variables are shared by those.
    """

    name = "Dask"
    elastic = True

    def __init__(self, client: Any, **options: Any) -> None:
        from distributed import KilledWorker

        self.died = (KilledWorker,)
        self._client, self._executor = client, client.get_executor(**dict(options, pure=False))

    def workers(self) -> int:
        return sum(self._client.nthreads().values())

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        return self._executor.submit(function, *arguments)

    def keep(self, brought: Brought) -> object:
        return self._client.scatter([brought], hash=False)[0]

    def cancel(self, future: "Future[Any]", running: bool) -> None:
        if running:  # whether it has begun, only the far scheduler knows: what may count is left alone
            future.cancel()


class RayEngine(Engine):
    """Ray's tasks: on the cluster ``ray.init`` has connected to, or else what ``ray.init()`` finds or starts.

    options: those of ``ray.remote``, for example num_cpus=1, resources={...}, runtime_env={...}.
    """

    name = "Ray"
    elastic = exact = True

    def __init__(self, **options: Any) -> None:
        import ray

        if not ray.is_initialized():
            ray.init()
        self._ray = ray
        self._cpus = options.get("num_cpus", 1) or 1
        # Retries are ours: a task that kills its process again and again is to be named.
        self._remote = ray.remote(run_chunk).options(**dict({"max_retries": 0}, **options))
        exceptions = ray.exceptions
        self.died = (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError)

    def workers(self) -> int:
        return int(self._ray.cluster_resources().get("CPU", 0) // self._cpus)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        reference = self._remote.remote(*arguments)
        future: "Future[Any]" = reference.future()
        future.reference = reference  # type: ignore[attr-defined] # it must live as long as its future
        return future

    def keep(self, brought: Brought) -> object:
        return self._ray.put(brought)

    def cancel(self, future: "Future[Any]", running: bool) -> None:
        if running:  # Ray interrupts what it cancels: what may count is left alone
            self._ray.cancel(future.reference, force=True)  # type: ignore[attr-defined]


# -- the cluster ----------------------------------------------------------------------------------


class EngineCluster(Cluster):
    """A Cluster whose only node is an engine: no port, no key, no process of its own."""

    runs_scripts = False

    def __init__(self, engine: Engine) -> None:
        super().__init__("", 0, b"")
        self._engine = engine

    def start(self) -> None:
        """Take the engine into service. Raises what counting its workers raises."""
        try:
            slots = self._engine.workers()
        except BaseException:
            self._loop.close()
            raise
        self._start_thread()
        self._ask(self._take_in, max(1, slots))

    def submit(self, job: "Job") -> int:
        """As Cluster's. Raises UsageError for a wish of the job that an engine cannot fulfil."""
        info, _ = job.definition()
        for wish, name in WISHES.items():
            if info.get(wish) is not None:
                raise errors.UsageError(
                    "%s=%s is not possible on %s: its worker processes are not ours to end; leave it out, "
                    "or use nodes of this package" % (name, info[wish], self._engine.name)
                )
        if job.options.idempotent:
            raise errors.UsageError(
                "idempotent=True is not possible on %s: where a task runs is its choice, so a second copy may wait "
                "behind the first; leave it out, or use nodes of this package" % self._engine.name
            )
        return super().submit(job)

    def _end(self, at_once: bool) -> None:
        """As Cluster's; the engine has been closed then, unless that takes long."""
        node: "Optional[_EngineNode]" = self._local  # type: ignore[assignment]
        super()._end(at_once)
        if node is not None:
            node.wait_until_closed(STOP_SECONDS)

    def join_local(self, slots: Optional[int] = None) -> None:
        raise errors.StateError("this master works on %s: add workers there, they are used at once" % self._engine.name)

    def leave_local(self, drain_seconds: float = 0.0) -> None:
        raise errors.StateError("this master works on %s: no worker here to stop" % self._engine.name)

    def _take_in(self, slots: int) -> None:
        self._local = _EngineNode(self, self._engine)  # type: ignore[assignment]
        self._local_gone.clear()
        self._enter(slots)

    def _enter(self, slots: int) -> None:
        """The engine's node joins; or joins again, with another number of slots and what it holds."""
        node: "_EngineNode" = self._local  # type: ignore[assignment]
        former = node.session
        if former is not None:
            self._event(scheduler.NodeDisconnected(former.node, former.number))
        session = _Session(self._next_session, self._to_local, "", lambda error: None)
        node.session = self._local_session = session
        self._next_session += 1
        self._inbox.append((session, protocol.Join(node.join_info(slots))))
        self.step(monotonic())


class _Held:
    """A grant on its way through the engine."""

    __slots__ = ("careful", "end", "flights", "future", "grant", "needs", "next")

    def __init__(self, grant: protocol.Grant) -> None:
        self.grant = grant
        self.next = grant.first  # the first task without an outcome
        self.end = grant.first + grant.count
        self.careful = bool(grant.careful) and grant.count > 1  # each task by itself, so that a death blames one
        self.needs: List[Need] = []
        self.flights = 0
        self.future: "Optional[Future[Any]]" = None


class _EngineNode:
    """In the cluster's thread: what a Node is for worker processes, for an engine's calls."""

    def __init__(self, cluster: EngineCluster, engine: Engine) -> None:
        self.session: Optional[_Session] = None
        self._cluster, self._engine = cluster, engine
        self._token = os.urandom(16)
        self._slots = 0
        self._told: Deque[Any] = deque()
        self._held: Dict[int, _Held] = {}  # attempt -> what has no complete outcome yet
        self._waiting: Deque[_Held] = deque()
        self._suspects: Deque[_Held] = deque()
        self._flying: Set[_Held] = set()
        self._alone: Optional[_Held] = None  # the suspect that flies now
        self._deadly: Set[Tuple[int, int]] = set()  # (job, task) that a worker process died of: it runs alone
        self._short: Set[int] = set()  # jobs whose definition goes with every chunk
        self._beat_at = 0.0
        self._said_empty = False
        self._courier = _Courier(engine, self._token.hex(), cluster._loop.call, self)
        self._handlers: Dict[type, Callable[[Any], None]] = {
            protocol.DefineJob: self._define, protocol.Grant: self._grant, protocol.Revoke: self._revoke,
            protocol.ForgetJob: self._forget, protocol.Drop: self._drop, protocol.Farewell: self._farewell,
        }  # fmt: skip

    def join_info(self, slots: int) -> Dict[str, Any]:
        self._slots = slots
        about = dict(describe(), hostname=self._engine.name, id=self._token.hex())
        return dict(about, slots=slots, held=sorted(self._held))

    # -- for the cluster --------------------------------------------------------------------------

    def tell(self, event: Any) -> None:
        if isinstance(event, agent.MasterSaid):
            self._told.append(event.message)

    def step(self, now: float) -> None:
        while self._told:
            message = self._told.popleft()
            handler = self._handlers.get(type(message))
            if handler is not None:
                handler(message)
        if now >= self._beat_at:
            self._beat_at = now + agent.HEARTBEAT_SECONDS
            self._send(protocol.Heartbeat({}))
        self._send_off()

    def deadline(self) -> float:
        return 0.0 if self._told else self._beat_at

    def _send(self, message: Any) -> None:
        self._cluster._inbox.append((self.session, message))

    # -- what the master says ---------------------------------------------------------------------

    def _define(self, message: protocol.DefineJob) -> None:
        buffers = _plain(message.payload)
        if sum(map(len, buffers)) <= ATTACH_BYTES_MAX:
            self._short.add(message.job)
        self._courier.put(self._courier.learn, ("definition", message.job), message.info, buffers)

    def _grant(self, message: protocol.Grant) -> None:
        held = self._held[message.attempt] = _Held(message._replace(payload=_plain(message.payload)))
        if message.job in self._short:
            held.needs.append(("definition", message.job))
        line = self._suspects if (message.job, message.first) in self._deadly else self._waiting
        line.append(held)

    def _revoke(self, message: protocol.Revoke) -> None:
        held = self._held.get(message.attempt)
        if held is None:
            return
        if message.kill:
            self._let_go(held)
        elif held in self._waiting:
            self._let_go(held)
            self._send(protocol.Released(0, message.attempt, held.next))
        elif held is self._alone:
            return  # elsewhere it would be no suspect any more
        if held.flights:
            self._courier.put(self._courier.cancel, held, bool(message.kill))

    def _let_go(self, held: _Held) -> None:
        """Whatever comes of it is of no interest any more."""
        del self._held[held.grant.attempt]
        self._flying.discard(held)
        for line in (self._waiting, self._suspects):
            if held in line:
                line.remove(held)
        if self._alone is held:
            self._alone = None

    def _forget(self, message: protocol.ForgetJob) -> None:
        self._short.discard(message.job)
        self._deadly = {task for task in self._deadly if task[0] != message.job}
        self._courier.put(self._courier.forget, ("definition", message.job))

    def _drop(self, message: protocol.Drop) -> None:
        self._courier.put(self._courier.drop, message.info["name"])

    def _farewell(self, message: protocol.Farewell) -> None:
        for held in list(self._held.values()):
            self._revoke(protocol.Revoke(held.grant.attempt, 1))
        self._courier.put(self._courier.end)
        self._cluster._local_ended(self.session)  # type: ignore[arg-type] # it has joined before anybody could say this

    # -- to the engine ----------------------------------------------------------------------------

    def _send_off(self) -> None:
        while self._alone is None:
            if self._suspects:
                if self._flying:
                    return  # until they have landed
                self._alone = held = self._suspects.popleft()
                held.careful = True
            elif self._waiting:
                held = self._waiting.popleft()
            else:
                return
            self._fly(held)

    def _fly(self, held: _Held) -> None:
        grant = held.grant
        count = 1 if held.careful else held.end - held.next
        payload = grant.payload
        if count < grant.count:
            payload = values.part_of(payload, held.next - grant.first, count)
        held.flights += 1
        self._flying.add(held)
        part = grant._replace(first=held.next, count=count, payload=payload)
        self._courier.put(self._courier.submit, held, held.flights, part, list(held.needs))

    # -- from the engine --------------------------------------------------------------------------

    def landed(self, held: _Held, flight: int, outcome: Any, error: Optional[BaseException]) -> None:
        """A flight's end: outcome is what ``run_chunk`` returns, or None and what happened instead."""
        if held not in self._flying or flight != held.flights:
            return  # let go meanwhile
        if error is None:
            reports, lacking = outcome
            self._report(held, reports)
            if held.grant.attempt not in self._held:
                pass
            elif lacking is not None:
                self._bring(held, tuple(lacking))
                return
            elif held.next < held.end:
                self._fly(held)
                return
            else:
                self._let_go(held)
        elif isinstance(error, CancelledError):
            self._let_go(held)
            self._send(protocol.Released(0, held.grant.attempt, held.next))
        elif isinstance(error, self._engine.died):
            self._died(held, error)
        else:
            self._unfit(held, error)
        self._send_off()

    def _report(self, held: _Held, reports: List[Any]) -> None:
        for report in reports:
            self._send(report)
            if isinstance(report, protocol.Done):
                held.next = report.first + report.count
            elif isinstance(report, protocol.Failed):
                held.next = report.first + 1
            elif isinstance(report, protocol.Unfit):
                self._let_go(held)

    def _bring(self, held: _Held, need: Need) -> None:
        if need in held.needs:
            text = "%s %s came with the chunk and was asked for again" % need
            self._unfit(held, errors.InternalError(text))
            return
        held.needs.append(need)
        what, name = need
        if what == "definition" or self._courier.knows(need):
            self._fly(held)
            return
        flight, here = held.flights, what != "share bytes"
        info = {"what": "share" if what == "share bytes" else what, "name": name, "pickle": PICKLE_PROTOCOL_MAX}

        def answered(message: protocol.Fetched) -> None:
            self._courier.put(self._courier.learn, need, message.info, _plain(message.payload))
            if held in self._flying and flight == held.flights:
                self._fly(held)

        self._cluster._library.ask(answered, 0, info, here)

    def _died(self, held: _Held, error: BaseException) -> None:
        if held is not self._alone and not self._engine.exact:
            self._flying.discard(held)
            self._suspects.append(held)
            return
        self._let_go(held)
        self._deadly.add((held.grant.job, held.next))
        info = {"exit": "%s says %s: %s" % (self._engine.name, type(error).__name__, error), "lines": []}
        self._send(protocol.Died(0, held.grant.attempt, held.next, info))

    def _unfit(self, held: _Held, error: BaseException) -> None:
        self._let_go(held)
        info, _ = values.encode_exception(error, 0)
        if "No module named 'minimalcluster'" in info["traceback"]:  # engines wrap it in errors of theirs
            info["text"] = "its workers need minimalcluster too: install it there, or send it along (docs/outgrow.md)"
        self._send(protocol.Unfit(0, held.grant.attempt, held.next, info))

    def counted(self, workers: int) -> None:
        if not workers and self._held and not self._said_empty:
            chunks = len(self._held)
            log.warning("%s has no workers: %d chunks wait; they go on when one comes", self._engine.name, chunks)
        self._said_empty = not workers
        if max(1, workers) != self._slots:
            log.info("%s has %d workers now", self._engine.name, workers)
            self._cluster._enter(max(1, workers))

    def pids(self) -> List[int]:
        return []  # they are the engine's

    def busy(self) -> bool:
        return bool(self._held)

    def wait_until_closed(self, seconds: float) -> None:
        self._courier.thread.join(seconds)


class _Courier:
    """Talks to the engine, in a thread of its own. ``put`` from the cluster's thread; the rest runs in it."""

    def __init__(self, engine: Engine, token: str, call: Callable[..., None], node: _EngineNode) -> None:
        self._engine, self._token, self._call, self._node = engine, token, call, node
        self._errands: "queue.Queue[Tuple[Callable[..., None], Tuple[Any, ...]]]" = queue.Queue()
        self._brought: Dict[Need, Brought] = {}
        self._kept: Dict[Need, object] = {}
        self._dropped: Deque[str] = deque(maxlen=DROPPED_MAX)
        self._ended = False
        self.thread = threading.Thread(target=self._run, name="minimalcluster-engine", daemon=True)
        self.thread.start()

    def put(self, errand: Callable[..., None], *arguments: Any) -> None:
        self._errands.put((errand, arguments))

    def knows(self, need: Need) -> bool:
        # A module that was missing may be there later; an object that is shared stays what it is.
        return need[0].startswith("share") and need in self._brought

    def _run(self) -> None:
        count_at = monotonic() + COUNT_SECONDS
        while not self._ended:
            try:
                errand, arguments = self._errands.get(True, COUNT_SECONDS if self._engine.elastic else None)
                errand(*arguments)
                del arguments
            except queue.Empty:
                pass
            if self._engine.elastic and monotonic() >= count_at and self._node.busy():
                self._count()
                count_at = monotonic() + COUNT_SECONDS

    def _count(self) -> None:
        try:
            workers = self._engine.workers()
        except Exception as error:  # a closed client; the next call says so to whom it concerns
            log.debug("the workers of %s cannot be counted: %s", self._engine.name, error)
        else:
            self._call(self._node.counted, workers)

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

    def submit(self, held: _Held, flight: int, grant: protocol.Grant, needs: List[Need]) -> None:
        node = self._node
        try:
            things = [self._thing(need) for need in needs]
            future = self._engine.submit(run_chunk, self._token, tuple(self._dropped), grant, *things)
        except BaseException as error:
            self._call(node.landed, held, flight, None, error)
            return
        held.future = future

        def landed(future: "Future[Any]") -> None:
            try:
                outcome, error = future.result(), None
            except BaseException as raised:
                outcome, error = None, raised
            if held.future is future:
                held.future = None  # some engines keep the result as long as there is a future
            self._call(node.landed, held, flight, outcome, error)

        future.add_done_callback(landed)

    def _thing(self, need: Need) -> object:
        brought = self._brought.get(need)
        if brought is None:
            return need, {"found": False}, []
        if sum(map(len, brought[2])) <= ATTACH_BYTES_MAX:
            return brought
        if need not in self._kept:
            self._kept[need] = self._engine.keep(brought)
        return self._kept[need]

    def cancel(self, held: _Held, running: bool) -> None:
        future = held.future
        if future is not None:
            try:
                self._engine.cancel(future, running)
            except Exception as error:
                log.debug("%s cannot cancel a call: %s", self._engine.name, error)

    def end(self) -> None:
        self._ended = True
        self._brought.clear()
        self._kept.clear()
        self._engine.close()


def _plain(buffers: List[Any]) -> List[bytes]:
    """What any engine's pickle can carry."""
    return [buffer if isinstance(buffer, bytes) else bytes(buffer) for buffer in buffers]


# -- in the engine's worker processes -------------------------------------------------------------


def run_chunk(
    token: str, dropped: Tuple[str, ...], grant: protocol.Grant, *brought: Brought
) -> "Tuple[List[Any], Optional[Need]]":
    """What a worker process of ours does with a Grant: (its reports, what it lacks to go on or None)."""
    place = _place(token)
    for name in dropped:
        place.shared.pop(name, None)
    worker = _EngineWorker(place, brought)
    before = getattr(_thread, "worker", None)
    _thread.worker = worker
    try:
        worker.run(grant)
    finally:
        _thread.worker = before
    return worker.reports, worker.lacking


class _Lacking(BaseException):
    """Unwinds a chunk that cannot go on without something."""


class _Place:
    """What the chunks of one master have in common in this process, whatever thread runs them."""

    def __init__(self) -> None:
        self.loading = threading.RLock()  # one thread at a time runs an environment's or a module's source
        self.definitions: "OrderedDict[int, protocol.DefineJob]" = OrderedDict()
        self.functions: Dict[int, Callable[..., Any]] = {}
        self.seconds: Dict[int, float] = {}
        self.shared: Dict[str, object] = {}
        self.finder = ClusterFinder(_fetch, first=False)

    def define(self, job: int, info: Dict[str, Any], buffers: List[memoryview]) -> None:
        if job in self.definitions:
            self.definitions.move_to_end(job)
            return
        self.finder.new_job()
        self.definitions[job] = protocol.DefineJob(job, info, buffers)
        while len(self.definitions) > DEFINITIONS_MAX:
            old, _ = self.definitions.popitem(last=False)
            self.functions.pop(old, None)
            self.seconds.pop(old, None)
            self.finder.forget({each.info.get("code") for each in self.definitions.values()})


_thread = threading.local()  # .worker: whose chunk this thread runs
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


def _current() -> "_EngineWorker":
    worker = getattr(_thread, "worker", None)
    if worker is None:
        raise errors.StateError("only a task's own thread can ask the master for something")
    return worker


def _fetch(what: str, name: str) -> Tuple[Dict[str, Any], List[memoryview]]:
    return _current().fetch(what, name)


def _resolve(name: str) -> object:
    return _current()._resolve(name)


class _Imports:
    """In ``sys.meta_path``: what this thread's chunk cannot import here may come from its master."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: Optional[types.ModuleType] = None) -> Any:
        worker = getattr(_thread, "worker", None)
        return None if worker is None else worker._place.finder.find_spec(fullname, path, target)


class _EngineWorker(Worker):
    """worker.py's worker for one chunk: what it would send is kept, what it would wait for ends the chunk."""

    def __init__(self, place: _Place, brought: Tuple[Brought, ...]) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]
        self._place = place
        self._definitions, self._functions, self._task_seconds = place.definitions, place.functions, place.seconds
        self._shared, self._finder = place.shared, place.finder
        self._brought: Dict[Need, Tuple[Dict[str, Any], List[memoryview]]] = {}
        for need, info, buffers in brought:
            self._brought[need] = info, [memoryview(buffer) for buffer in buffers]
        self.reports: List[Any] = []
        self.lacking: Optional[Need] = None

    def run(self, grant: protocol.Grant) -> None:
        need = ("definition", grant.job)
        with self._place.loading:
            if need in self._brought:
                self._place.define(grant.job, *self._brought[need])
            if grant.job not in self._definitions:
                self.lacking = need
                return
        try:
            self._run(grant)
        except _Lacking:
            pass

    def fetch(self, what: str, name: str) -> Tuple[Dict[str, Any], List[memoryview]]:
        need = (what, name)
        if need not in self._brought:
            self.lacking = need
            raise _Lacking
        return self._brought[need]

    def _resolve(self, name: str) -> object:
        if name in self._shared:
            return self._shared[name]
        info, buffers = self.fetch("share", name)
        if info.get("found") and not os.path.exists(info["path"]):  # this is another machine
            info, buffers = self.fetch("share bytes", name)
        if not info.get("found"):
            raise errors.StateError("the shared object %s cannot be had: it was dropped" % name)
        functions.prepare(info.get("needs", ""))
        self._shared[name] = shares.rebuilt(buffers) if buffers else shares.load(info)
        return self._shared[name]

    def _use_code(self, job: int) -> None:
        with self._place.loading:
            super()._use_code(job)

    def _function(self, job: int) -> object:
        with self._place.loading:
            if job not in self._functions:
                self._definitions[job] = _with_this_main(self._definitions[job])
            return super()._function(job)

    def _send(self, message: Any) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # the task forked and came back twice: only the first of them speaks
        if self.lacking is not None:
            raise _Lacking  # a task that caught the first one has made something of half a world
        if hasattr(message, "payload"):
            message = message._replace(payload=_plain(message.payload))
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


# The standard library's executors take no more work at the interpreter's exit, and the last registered is
# asked first: what waits for its end here must come before them.
if hasattr(threading, "_register_atexit"):
    threading._register_atexit(calls.finish_all)
