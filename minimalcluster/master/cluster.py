"""The running master: the scheduler, the loop and this machine's node, in one thread. Every face uses this.

::

    any thread -- submit, cancel, join_local ... --> Loop.call -+
    nodes      -- connections -- messages as events ----------+--> scheduler -- effects --> nodes, jobs
    this machine's own node -- the same messages, no socket --+

``job.py`` says what the cluster asks of a job, and a job of the cluster.
"""
from __future__ import absolute_import, division, print_function

import itertools
import os
import socket  # noqa: F401 # in a type comment
import sys
import threading
from collections import Counter, deque, namedtuple

from .. import errors
from ..brain import agent, scheduler
from ..brain.options import Options  # noqa: F401 # in a type comment
from ..brain.status import ClusterStatus, JobStatus  # noqa: F401 # in a type comment
from ..compat import (  # fmt: skip
    PICKLE_PROTOCOL,
    STARTS_THREADS_AT_EXIT,
    cpu_count,
    forbid_patched_threads,
    hexadecimal,
    monotonic,
    native,
)
from ..logs import log
from ..node.hands import Hands  # noqa: F401 # in a type comment
from ..payload import functions, sources, values
from ..payload.shares import Shared, Unasked
from ..wire import checks, encryption, frames, handshakes, keys, protocol
from ..wire.connection import Connection
from ..wire.limits import ODD_MESSAGES_MAX, ODD_NODES_MAX, STRANGERS_LOGGED_MAX, STRANGERS_SECONDS
from ..wire.listener import Listener
from ..wire.loop import Loop
from .disk import Disk
from .job import Job, Runner  # noqa: F401 # in type comments
from .printer import Printer
from .serving import Library
from .sessions import Session, Sessions, careful, sync
from .workplace import ThisMachine, Workplace  # noqa: F401 # the latter in a type comment

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Iterable, TypeVar  # noqa: F401 # novm

    T = TypeVar("T")

#: How long running tasks may still take when this machine stops working. After that they run on another node.
DRAIN_SECONDS = 5.0
#: A thread that waits for an answer looks so often whether the cluster's thread still runs.
ANSWER_SECONDS = 1.0
STOP_SECONDS = 5.0
#: A worker process asks for one module or object at a time, and a node has some hundreds of worker processes at most.
QUESTIONS_MAX = 4096
#: The same reason of ever more jobs that wait is logged so often.
SAME_TEXT_SECONDS = 2.0
#: Worker processes have 10 s for their exit handlers (agent.py), and a moment to be killed after that.
LEAVE_SECONDS = 15.0
FAREWELL_SECONDS = 2.0
#: The scheduler is told the size of a chunk's arguments only above this.
WEIGHED_BYTES_MIN = 64 << 10
JOB_SHIFT = 24
FORKED = "this cluster belongs to the process that made it; a fork cannot use it: make a new one"

#: A node in ``list_workers``. busy: 1 while it has tasks. address: "" for the node in this process.
WorkerInfo = namedtuple(
    "WorkerInfo", "hostname nprocs pid busy address python platform tasks_done tasks_per_second connected"
)

class _Answer(object):
    """The result or the exception of a call in the cluster's thread, for the thread that waits for it."""

    def __init__(self, function, arguments):
        # type: (Callable[..., Any], tuple[Any, ...]) -> None
        self._function, self._arguments = function, arguments
        self._value = None  # type: Any
        self._error = None  # type: BaseException | None
        self.made = threading.Event()

    def make(self):
        # type: () -> None
        try:
            self._value = self._function(*self._arguments)
        except errors.InternalError:
            raise  # it ends the master; then ``_ask`` raises
        except BaseException as error:
            self._error = error
        self.made.set()

    def get(self):
        # type: () -> Any
        if self._error is not None:
            raise self._error
        return self._value


class Cluster(Runner, Sessions):
    """See the module's text. ``start`` opens the port; ``stop`` gives everything back.

    host: None if no node may join from elsewhere; then there is no port. workplace: where the cluster's own node works.
    encrypt, ssl_context: of the port (``encryption.py``).
    """

    def __init__(
        self,
        host,  # type: str | None
        port,  # type: int
        authkey,  # type: object
        workplace=None,  # type: Workplace | None
        encrypt=None,  # type: bool | None
        ssl_context=None,  # type: Any
        load=values.loads,  # type: Callable[[Any], Any]
    ):
        # type: (...) -> None
        forbid_patched_threads()
        self._host, self.port, self._authkey = host, port, authkey
        self._workplace = workplace or ThisMachine()
        self.runs_scripts = self._workplace.runs_scripts
        self._loop, self._disk = Loop(), Disk()
        epoch = int(hexadecimal(os.urandom(3)), 16) >> 1
        Sessions.__init__(self, epoch, self._loop.call, self._disk.do)
        self._scheduler = scheduler.Scheduler(epoch)
        self._encrypt, self._ssl_context, self._load = encrypt, ssl_context, load
        self._listener = None  # type: Listener | None
        self._thread = None  # type: threading.Thread | None
        self._proved = set()  # type: set # sessions that have not joined yet
        self._next_session = 1
        self._job_numbers = itertools.count((epoch << JOB_SHIFT) + 1)  # ``next`` may be called in any thread
        self._local = None  # type: Hands | None
        self._local_session = None  # type: Session | None
        self._local_gone = threading.Event()
        self._local_gone.set()
        self._all_left = threading.Event()
        self._inbox = deque()  # type: deque # (session, message) of the local node
        self._printers = {"stdout": Printer("stdout"), "stderr": Printer("stderr")}
        self._library = Library(self._loop.call)
        self._failing = set()  # type: set # numbers of jobs that failed here, until the scheduler has let go of them
        self._crashed = None  # type: BaseException | None
        self._odd = Counter()  # type: Counter # node id -> its messages that no node sends
        self._explained = set()  # type: set[str] # what was logged of jobs that wait
        self._explained_until = 0.0  # from then on the same text may be logged again
        self._strangers = 0  # refused connections in the current STRANGERS_SECONDS
        self._stopped = self._is_over = False  # ``stop`` was called; the thread has ended
        self._told_slots = 0  # the jobs know this number of ``slots``
        self._ending = threading.RLock()
        self._has_ended = False
        self._pid = os.getpid()

    # -- from any thread --------------------------------------------------------------------------

    def start(self):
        # type: () -> None
        """Open the port, if there is to be one, and start the thread.

        Raises OSError that names the address, and what counting the workers of an engine raises.
        """
        try:
            slots = self._workplace.slots_at_start()
            if self._host is not None:
                self._listen(self._host)
        except BaseException:
            self._loop.close()
            raise
        try:
            self._start_thread()
        except BaseException:  # no thread can be started
            self._loop.close()
            self._library.close()
            raise
        if slots is not None:
            self._ask(self._join_local, slots)

    def _listen(self, host):
        # type: (str) -> None
        self._salt = os.urandom(16)
        self._proof_key = keys.proof_key(keys.as_key(self._authkey), self._salt, keys.KDF_ROUNDS)
        self._tls = encryption.server(host, self._encrypt, self._ssl_context)
        descriptors = 1 if self._tls is None else self._tls.descriptors
        self._listener = Listener(self._loop, host, self.port, self._accepted, descriptors=descriptors)
        self.port = self._listener.port
        self._event(scheduler.JobAwaited())

    def _start_thread(self):
        # type: () -> None
        self._library.start()  # now: later, questions of worker processes would fail if no thread could be started
        self._loop.join(self)
        thread = threading.Thread(target=self._run, name="minimalcluster-master")
        thread.daemon = True
        thread.start()
        self._thread = thread
        if not STARTS_THREADS_AT_EXIT:
            for printer in self._printers.values():
                printer.start()
            self._disk.start()
            log.start()

    def is_ours(self):
        # type: () -> bool
        """False in a forked process, which has none of the threads; files and sockets belong to the parent."""
        return self._pid == os.getpid()

    def check_process(self):
        # type: () -> None
        if not self.is_ours():
            raise errors.StateError(FORKED)

    def check_runs(self):
        # type: () -> None
        """Raises StateError after its end."""
        if self._is_over:
            raise self._why_over()

    def submit(self, job):
        # type: (Job) -> int
        """Number the job and hand it over. Its ``crashed`` is called if it comes too late.

        Raises UsageError for a wish that cannot be fulfilled where this cluster works.
        """
        self.check_process()
        self._workplace.check_job(job)
        self.check_options(job.options)
        job.load = self._load
        job.code = sources.loaded.current()
        number = next(self._job_numbers)
        self._loop.call(self._submit, number, job)
        if self._is_over:
            job.crashed(self._why_over())
        return number

    def check_options(self, options):
        # type: (Options) -> None
        """Raises UsageError for options that cannot be fulfilled here."""
        if options.journal is not None and self._load is not values.loads:
            # The next run would take from it what this one refuses.
            raise errors.UsageError("a master with results='safe' keeps no journal")

    def grew(self, number, job):
        # type: (int, Job) -> None
        """The job's ``total``, ``closed`` or limit has changed. Changes until the cluster looks make one event."""
        if not job.announced:
            job.announced = True
            self._loop.call(self._grew, number, job)

    def _grew(self, number, job):
        # type: (int, Job) -> None
        job.announced = False
        # Read ``closed`` before ``total``: it is set after the last growth.
        closed = job.closed
        self._event(scheduler.JobGrew(number, job.total, closed, job.limit(self.slots)))

    def cancel(self, number):
        # type: (int) -> None
        self._loop.call(self._event, scheduler.JobCancelled(number))

    def stop_job(self, number):
        # type: (int) -> None
        """As ``cancel``, but running tasks may end, and their outcomes count."""
        self._loop.call(self._event, scheduler.JobStopped(number))

    def cancel_task(self, number, task):
        # type: (int, int) -> None
        """Deliver nothing for this task; kill the worker process that runs it."""
        self._loop.call(self._event, scheduler.TaskCancelled(number, task))

    @property
    def slots(self):
        # type: () -> int
        """How many worker processes the nodes have that take work now. From any thread."""
        return self._scheduler.slots

    def settle(self):
        # type: () -> None
        """Return when the tasks submitted before have been handed out, as far as worker processes are free."""
        try:
            self._ask(self.step, monotonic())
        except errors.StateError:
            pass  # it was shut down: nothing is handed out

    def join_local(self, slots=None):
        # type: (int | None) -> None
        """Let this machine work, if it does not yet. Raises StartError if no worker process can be started."""
        self._workplace.check_join()
        self._ask(self._join_local, slots or cpu_count())
        if not STARTS_THREADS_AT_EXIT:
            self.settle()  # starts the worker processes and the threads that watch them before it returns

    def leave_local(self, drain_seconds=DRAIN_SECONDS):
        # type: (float) -> None
        """Stop this machine's work. Tasks that run may end within drain_seconds; the others go to other nodes."""
        self._workplace.check_leave()
        self._ask(self._drain_local)
        if not self._local_gone.wait(drain_seconds):
            self._ask(self._end_local)
            self._local_gone.wait(LEAVE_SECONDS)

    def share(self, value):
        # type: (object) -> Shared
        """A handle for the object, for use in arguments; sent once to each node. Raises what its pickling raises."""
        self.check_process()
        buffers, needs = functions.pack_apart(value, self.runs_scripts)
        return Shared(self._library.share(buffers, needs), value, self._drop_shared)

    def share_unasked(self, value):
        # type: (object) -> Unasked
        """As ``share``, for an immutable object, until the handle is dropped. Its name is random, not a digest."""
        buffers, needs = functions.pack_apart(value, self.runs_scripts)
        return Unasked(self._library.share(buffers, needs, hexadecimal(os.urandom(16))), value, self._drop_shared)

    def _drop_shared(self, name):
        # type: (str) -> None
        if not self.is_ours():
            return
        self._library.drop(name)
        self._loop.call(self._tell_all, protocol.Drop({"name": name}))

    def _tell_all(self, message):
        # type: (tuple) -> None
        for session in self._sessions.values():
            session.send(message)

    def workers(self):
        # type: () -> list[WorkerInfo]
        found = self.snapshot(())
        nodes = found["nodes"] + found["parked"]
        return [WorkerInfo(*[node[name] for name in WorkerInfo._fields]) for node in nodes]

    def local_pids(self):
        # type: () -> list
        """The process ids of this machine's worker processes."""
        return self._ask(lambda: [] if self._local is None else self._local.pids())

    def snapshot(self, numbers=None):
        # type: (Iterable[int] | None) -> dict[str, Any]
        """Nodes and jobs (all, or those with these numbers) as plain data. Raises StateError if this is not running."""
        return self._ask(self._snapshot, numbers)

    def status(self, numbers=None):
        # type: (Iterable[int] | None) -> ClusterStatus
        """The progress of the jobs (all, or those with these numbers). Raises StateError if this is not running."""
        return ClusterStatus.of(self.snapshot(numbers))

    def stop(self, at_once=False):
        # type: (bool) -> None
        """Tell the nodes, end the local processes, free the port. Idempotent; a fork's copy ends nothing.

        at_once: worker processes are killed; else those with nothing to do end by themselves, with their exit handlers.

        Whoever calls it, and who calls it at the same time, returns after the end.
        """
        if self._thread is None or not self.is_ours():
            return
        if self.in_own_thread():  # called by a __del__ method in this thread, which cannot wait for itself
            threading.Thread(target=self.stop, args=(at_once,), name="minimalcluster-stop").start()
            return
        with self._ending:
            if not self._has_ended:
                self._end(at_once)
                self._has_ended = True

    def _end(self, at_once):
        # type: (bool) -> None
        self._stopped = True
        if self._thread is not None and self._thread.is_alive():
            try:
                self._ask(self._say_farewell, at_once)
            except errors.StateError:
                pass  # the master has failed meanwhile
            self._all_left.wait(FAREWELL_SECONDS)  # until all nodes have answered, and their last lines have come
            self._local_gone.wait(LEAVE_SECONDS)
            self._loop.stop()
            self._thread.join(STOP_SECONDS)
        self._disk.close(STOP_SECONDS)
        for printer in self._printers.values():
            printer.close()
        self._library.close()

    def in_own_thread(self):
        # type: () -> bool
        """Whether this is the cluster's thread. The garbage collector may run ``__del__`` methods in it, too."""
        return self._thread is threading.current_thread()

    def _ask(self, function, *arguments):
        # type: (Callable[..., T], *Any) -> T
        """Call the function in the cluster's thread. Returns its result, or raises its exception."""
        self.check_process()
        if self._thread is None:
            raise errors.StateError("the master is not running: call start_master_server() first")
        if self.in_own_thread():
            raise errors.StateError("the master cannot be asked in its own thread, where a __del__ method may run")
        answer = _Answer(function, arguments)
        self._loop.call(answer.make)
        while not answer.made.wait(ANSWER_SECONDS) and self._thread.is_alive():
            pass
        if not answer.made.is_set():
            raise self._why_over()
        return answer.get()

    def _why_over(self):
        # type: () -> errors.StateError
        """The error for all who use a master whose thread has ended."""
        if self._crashed is None:
            return errors.StateError("the master was shut down")
        error = errors.StateError("the master failed: %s: %s" % (type(self._crashed).__name__, self._crashed))
        error.__cause__ = self._crashed
        return error

    # -- the thread -------------------------------------------------------------------------------

    def _run(self):
        # type: () -> None
        try:
            self._loop.run()
        except BaseException as error:  # a defect of this package: all who wait must get an error
            log.exception("the master's thread failed; please report this")
            self._crashed = error
        finally:
            self._is_over = True  # before the jobs are told: ``submit`` reads it
            late = [arguments[1] for function, arguments in self._loop.left() if function == self._submit]
            for job in list(self._jobs.values()) + late:
                self._tell_end(job, job.crashed, self._why_over())
            self._jobs.clear()
            self._local_gone.set()
            self._loop.close()

    def step(self, now):
        # type: (float) -> None
        if self._local is not None and self._local.has_news:  # first: then one pass is for what it says, too
            self._local.step(now)
        while True:
            while self._inbox:
                session, message = self._inbox.popleft()
                self._said(session, message)
            local = self._local_session
            if local is not None and local.node is not None:
                # Never silent: if this process stood still (suspended, or in C code), so did its own node.
                self._handle(scheduler.NodeHeard(local.node, local.number), now)
            self._handle(scheduler.TimePassed(), now)
            self._tell_slots()
            self._acknowledge(now)
            self._beat(now)
            if self._local is not None:
                self._local.step(now)
            if not self._inbox:
                return

    def _tell_slots(self):
        # type: () -> None
        if self._told_slots != self.slots:
            self._told_slots = self.slots
            for job in self._jobs.values():
                job.slots_changed(self._told_slots)

    def deadline(self):
        # type: () -> float | None
        deadlines = [self._scheduler.deadline(), self._local.deadline() if self._local is not None else None]
        moments = [moment for moment in deadlines if moment is not None] + self._moments()
        return min(moments) if moments else None

    def _event(self, event):
        # type: (tuple) -> None
        self._handle(event, monotonic())

    def _handle(self, event, now):
        # type: (tuple, float) -> None
        for effect in self._scheduler.effects_of(event, now):
            self._loop.spare(self._effects[type(effect)], effect, self._effect_failed)

    def _effect_failed(self, effect, error):
        # type: (object, BaseException) -> None
        """An effect has raised: end the job that it was for, or else the connection that it was for."""
        number = getattr(effect, "job", -1)
        if number in self._jobs:  # perhaps by code of the user, such as __reduce__, or a removed script
            self._fail_job(number, error)
            return
        log.exception("%s failed, and the rest goes on; please report this", type(effect).__name__)
        session = self._sessions.get(getattr(effect, "node", ""))
        if session is not None:
            session.close(errors.ConnectionFailed("%s: %s" % (type(error).__name__, error)))

    def _submit(self, number, job):
        # type: (int, Job) -> None
        if self._stopped:
            self._tell_end(job, job.crashed, self._why_over())
            return
        self._jobs[number] = job
        closed, total, limit = job.closed, job.total, job.limit(self.slots)
        self._event(scheduler.JobSubmitted(number, total if closed else None, job.options))
        if not closed or limit is not None:
            self._event(scheduler.JobGrew(number, total, closed, limit))
        if job.resumed is not None:
            self._event(scheduler.JobResumed(number, *job.resumed))
        job.slots_changed(self.slots)

    # -- what nodes say ---------------------------------------------------------------------------

    def _fetch(self, session, message):
        # type: (Session, protocol.Fetch) -> None
        if session.unanswered >= QUESTIONS_MAX:
            raise errors.ProtocolError("%d questions of one node wait for their answers" % session.unanswered)
        session.unanswered += 1

        def answer(fetched):
            # type: (protocol.Fetched) -> None
            session.unanswered -= 1
            session.send(fetched)

        self._library.ask(answer, message.request, message.info, not session.address)

    def _printed(self, session, message):
        # type: (Session, protocol.Output) -> None
        info = message.info
        pid = info.get("pid")
        prefix = "" if not session.address else native("[%s/%s] " % (session.info.get("hostname"), pid))
        self._printers[info["stream"]].show((session.node, pid), prefix, native(info["text"]))

    def _joined(self, session, message):
        # type: (Session, protocol.Join) -> None
        ours, theirs = "%d.%d.%d" % sys.version_info[:3], str(message.info.get("python", "?"))
        if theirs.split(".")[0] != ours.split(".")[0]:
            text = (
                "the master runs Python %s and this node Python %s: 2 and 3 do not mix in one cluster; "
                "start the node with Python %s" % (ours, theirs, ours.split(".")[0])
            )
            self._turn_away(session, message, text)
            return
        if self._odd[self._id_of(message.info)] >= ODD_MESSAGES_MAX:
            text = "it has sent %d messages that no node sends, so it gets no more tasks" % ODD_MESSAGES_MAX
            self._turn_away(session, message, text, odd=True)
            return
        super(Cluster, self)._joined(session, message)
        if session.node is not None:
            self._proved.discard(session)

    def _turn_away(self, session, message, text, **why):
        # type: (Session, protocol.Join, str, bool) -> None
        log.warning("node %s is refused: %s", message.info.get("hostname"), text)
        session.send(protocol.Farewell(dict(why, refused=text)))

    # -- what the scheduler wants -----------------------------------------------------------------

    def _admit(self, effect):
        # type: (scheduler.Admit) -> None
        super(Cluster, self)._admit(effect)
        session = self._sessions[effect.node]
        info = session.info
        log.info("node %s joined with %d worker processes (Python %s)", session.name, info["slots"], info.get("python"))
        for name in info.get("shared", ()):
            if not self._library.has(name):  # it was dropped while the node was away, or shared by a former master
                session.send(protocol.Drop({"name": name}))

    def _define(self, effect):
        # type: (scheduler.Define) -> None
        info, buffers = self._jobs[effect.job].definition()
        code = self._jobs[effect.job].code
        info = dict(info, code=code.number, tops=code.tops())
        self._sessions[effect.node].send(protocol.DefineJob(effect.job, info, buffers))

    def _grant(self, effect):
        # type: (scheduler.Grant) -> None
        job, session, count = self._jobs[effect.job], self._sessions[effect.node], effect.count
        if effect.job in self._failing:
            return  # the node may not have got its definition
        buffers = job.encode(effect.first, count)
        while sum(map(len, buffers)) > protocol.OBJECT_BYTES_MAX and count > 1:
            count //= 2
            buffers = job.encode(effect.first, count)
        size = sum(map(len, buffers))
        if size <= protocol.OBJECT_BYTES_MAX:
            if session.address:  # not this machine's node: it ends with the master, so no attempt of it comes back
                job.granted(effect.attempt, effect.first, count)
            grant = protocol.Grant(effect.attempt, effect.job, effect.first, count, careful(effect), buffers)
            session.send(grant)
            if size > WEIGHED_BYTES_MIN:
                self._soon(scheduler.AttemptSized(effect.node, session.number, effect.attempt, size))
        if count < effect.count:
            self._soon(scheduler.AttemptReleased(effect.node, session.number, effect.attempt, effect.first + count))
        if size > protocol.OBJECT_BYTES_MAX:
            info, pickled = values.encode_exception(protocol.too_large("the argument", size), 0)
            self._soon(
                scheduler.TaskFailed(effect.node, session.number, effect.attempt, effect.first, 0.0, info, pickled)
            )

    def _soon(self, event):
        # type: (tuple) -> None
        """Handle an event that an effect causes, after the current pass."""
        self._loop.call(self._event, event)

    def _fail_job(self, number, error):
        # type: (int, BaseException) -> None
        if number not in self._failing:
            self._failing.add(number)
            self._tell_end(self._jobs[number], self._jobs[number].crashed, error)
        self._soon(scheduler.JobCancelled(number))

    def _taken_back(self, effect):
        # type: (scheduler.TakenBack) -> None
        self._jobs[effect.job].taken_back(effect.first, effect.end)

    def _deliver(self, effect):
        # type: (scheduler.Deliver) -> None
        job = self._job_of_outcome(effect.job)
        job.deliver(effect.first, effect.count, effect.skip, effect.payload)
        if job.is_ahead():
            self.grew(effect.job, job)

    def _deliver_failure(self, effect):
        # type: (scheduler.DeliverFailure) -> None
        node = self._sessions[effect.node].name
        self._job_of_outcome(effect.job).deliver_failure(effect.first, node, effect.info, effect.payload)

    def _deliver_poison(self, effect):
        # type: (scheduler.DeliverPoison) -> None
        self._job_of_outcome(effect.job).deliver_poison(effect.first, effect.deaths)

    def _finish(self, effect):
        # type: (scheduler.Finish) -> None
        job = self._jobs.pop(effect.job)
        self._failing.discard(effect.job)
        self._tell_end(job, job.finished, effect.unrunnable)

    def _tell_end(self, job, tell, argument):
        # type: (Job, Callable[[T], None], T) -> None
        """Call tell(argument) when the job's journal is on the disk; in the disk's thread, since that may take long."""
        if job.journal is None:
            tell(argument)
        else:
            self._disk.do(sync, [job.journal], tell, argument)

    def _idle(self, effect):
        # type: (scheduler.Idle) -> None
        why = self._jobs[effect.job].blocked_reason()
        if why:
            log.warning("%s", why)

    def _explain(self, effect):
        # type: (scheduler.Explain) -> None
        """Many jobs may say the same, and one line is enough for all."""
        now = monotonic()
        if now >= self._explained_until:
            self._explained_until = now + SAME_TEXT_SECONDS
            self._explained.clear()
        if effect.text not in self._explained:
            self._explained.add(effect.text)
            log.warning("%s", effect.text)

    def _disconnect(self, effect):
        # type: (scheduler.Disconnect) -> None
        session = self._sessions.get(effect.node)
        if session is not None and session.number == effect.session:
            log.warning("node %s is disconnected: %s", session.info.get("hostname"), effect.reason)
            session.close(errors.ConnectionFailed(effect.reason))

    # -- connections ------------------------------------------------------------------------------

    def _accepted(self, sock, where):
        # type: (socket.socket, str) -> Connection
        number = self._next_session
        self._next_session += 1
        tls = self._tls
        handshake = handshakes.ServerHandshake(
            self._authkey, self._salt, os.urandom(32), number, self._epoch, self._proof_key,
            pickle_protocol=PICKLE_PROTOCOL, certificate_hash=None if tls is None else tls.certificate_hash,
        )  # fmt: skip
        return Connection(self._loop, sock, handshake, self, where, secured=None if tls is None else tls.stream)

    def opened(self, connection):
        # type: (Connection) -> None
        peer = connection.peer
        if peer is None or peer.role != handshakes.NODE:
            connection.close(errors.ProtocolError("%s is no node" % connection.where))
            return
        connection.about = session = Session(
            peer.session, connection.send, connection.where, connection.close, connection.under_way
        )
        self._proved.add(session)
        if self._stopped:
            connection.send(protocol.Farewell({}))

    def received(self, connection, messages):
        # type: (Connection, list) -> None
        session = connection.about
        if not isinstance(session, Session):
            return  # ``opened`` has closed it
        if session.node is not None:
            self._event(scheduler.NodeHeard(session.node, session.number))  # also for a part of a message
        for message in messages:
            checks.check(message, checks.NODE)
            self._said(session, message)
            if not connection.is_open:
                return

    def closed(self, connection, error):
        # type: (Connection, BaseException | None) -> None
        session = connection.about  # type: Session | None # None before its proof
        self._proved.discard(session)
        if session is None or session.node is None:
            if connection.left_silently:  # it comes back when it has stretched its key
                log.debug("%s has connected and left", connection.where)
            elif error is not None:
                self._refused(connection.where, error)
            self._notice_all_left()
            return
        # A node that breaks the protocol would do so again: do not wait for it to come back.
        event = scheduler.NodeLeft if isinstance(error, errors.ProtocolError) else scheduler.NodeDisconnected
        if _is_its_own_fault(error):
            if len(self._odd) >= ODD_NODES_MAX:
                self._odd.clear()
            self._odd[session.node] += 1
        self._event(event(session.node, session.number))
        if self._sessions.get(session.node) is session:
            del self._sessions[session.node]
            self._notice_all_left()
        log.info("node %s: %s", session.name, error or "left")

    def _refused(self, where, error):
        # type: (str, BaseException) -> None
        """Log a refused connection, but not all of them: strangers may connect as often as they like."""
        self._strangers += 1
        if self._strangers == 1:
            self._loop.later(STRANGERS_SECONDS, self._count_strangers)
        if self._strangers <= STRANGERS_LOGGED_MAX:
            log.warning("a connection from %s was refused: %s", where, error)

    def _count_strangers(self):
        # type: () -> None
        more, self._strangers = self._strangers - STRANGERS_LOGGED_MAX, 0
        if more > 0:
            log.warning("%d more connections were refused in %.0f s", more, STRANGERS_SECONDS)

    # -- this machine's own node ------------------------------------------------------------------

    def _join_local(self, slots):
        # type: (int) -> None
        if self._local is not None:
            return
        node = self._workplace.node(self._loop, slots, self._from_local, self._link_local, self._local_ended)
        node.open()
        self._local = node
        self._local_gone.clear()
        self._link_local("it joins")
        self.step(monotonic())  # so that the node is in ``list_workers`` when join_local returns

    def _link_local(self, reason):
        # type: (str) -> None
        """Let the node join; or join again, as after a lost connection, if it has dropped its link."""
        node = self._local
        if node is None:
            return
        if self._local_session is not None:
            log.debug("the master's own node joins again: %s", reason)
            node.tell(agent.LinkDown())
        self._local_session = Session(self._next_session, self._to_local, "", lambda error: None)
        self._next_session += 1
        node.tell(agent.LinkUp())

    def _from_local(self, message):
        # type: (tuple) -> None
        self._inbox.append((self._local_session, message))

    def _to_local(self, message):
        # type: (tuple) -> None
        if self._local is not None:
            self._local.tell(agent.MasterSaid(message))

    def _drain_local(self):
        # type: () -> None
        if self._local is not None:
            self._local.tell(agent.DrainAsked())

    def _end_local(self):
        # type: () -> None
        if self._local is not None:
            self._local.tell(agent.MasterSaid(protocol.Farewell({})))

    def _local_ended(self, reason, refused):
        # type: (str, str | None) -> None
        session = self._local_session
        self._local = self._local_session = None
        if session is not None and session.node is not None and self._sessions.pop(session.node, None) is not None:
            self._event(scheduler.NodeLeft(session.node, session.number))
        self._local_gone.set()
        self._notice_all_left()

    def _notice_all_left(self):
        # type: () -> None
        if self._stopped and not self._sessions and not self._proved:
            self._all_left.set()

    # -- the rest ---------------------------------------------------------------------------------

    def _say_farewell(self, at_once):
        # type: (bool) -> None
        if self._listener is not None:
            self._listener.close()
        for number, job in list(self._jobs.items()):
            self._tell_end(job, job.crashed, self._why_over())
            self._event(scheduler.JobCancelled(number))
        for session in list(self._sessions.values()) + list(self._proved):
            session.send(protocol.Farewell({"at_once": True} if at_once else {}))
        self._notice_all_left()

    def _snapshot(self, numbers):
        # type: (Iterable[int] | None) -> dict[str, Any]
        nodes, parked = self._scheduler.nodes()
        for node in nodes + parked:
            node.update(_machine_of(node, self._sessions.get(node["id"])))
        jobs = [
            dict(told._asdict(), **_face_of(number, told, self._jobs[number]))
            for number, told in self._scheduler.status(monotonic(), numbers)
            if number in self._jobs
        ]
        return {"nodes": nodes, "parked": parked, "jobs": jobs}


def _machine_of(node, session):
    # type: (dict[str, Any], Session | None) -> dict[str, Any]
    """What the snapshot has of a node beside the scheduler's data. session: its connection, if it has one."""
    info = session.info if session is not None else {}
    seconds = node["busy_seconds"]
    return {
        "hostname": native(info.get("hostname", node["name"].split("/")[0])), "nprocs": node["slots"],
        "pid": info.get("pid"), "busy": int(node["leases"] > 0),
        "address": session.address if session is not None else "", "python": native(info.get("python", "?")),
        "platform": native(info.get("platform", "?")),
        "tasks_per_second": node["tasks_done"] * node["slots"] / seconds if seconds else 0.0,
    }  # fmt: skip


def _is_its_own_fault(error):
    # type: (BaseException | None) -> bool
    """Whether this node itself has said what no node says. What was refused before its tag may come from the path."""
    before_the_tag = frames.ChangedOnTheWay, errors.FrameTooLarge
    return isinstance(error, errors.ProtocolError) and not isinstance(error, before_the_tag)


def _face_of(number, told, job):
    # type: (int, JobStatus, Job) -> dict[str, Any]
    """What the snapshot has of a job beside the scheduler's data: its name, and why it holds tasks back."""
    return {"id": number, "name": job.name, "why": told.why or (not told.running and job.blocked_reason()) or ""}
