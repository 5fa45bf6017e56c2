"""One machine's part: the agent's I/O (worker processes, the link to the master) and ``WorkerNode``.

::

    master <-- link --> Node (agent.py decides) <-- loopback --> worker processes (worker.py)

``Node`` does what its agent says, in whatever loop it is stepped: in the master's own process
(``cluster.py``) or in ``WorkerNode.join_cluster``. A worker process is a fresh interpreter; two
threads stand by each: one reads what it prints, one waits for its end. Both only post to the loop.
"""
from __future__ import absolute_import, division, print_function

import errno
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from functools import partial

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from .. import errors
from ..brain import agent as brain
from ..compat import (  # fmt: skip
    PICKLE_PROTOCOL,
    PY2,
    WINDOWS,
    cpu_count,
    forbid_patched_threads,
    hexadecimal,
    integer_types,
    monotonic,
    native,
    socketpair,
    write_quietly,
)
from ..logs import log
from ..payload.shares import Files
from ..wire import checks, protocol
from ..wire.addresses import checked_host, dial, in_words, resolve
from ..wire.transport import Connection, Listener, Loop
from . import boot, orphans
from .output import Reader

#: One thread each for BLAS and OpenMP in a worker process with a core to itself; the user's settings win.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip
#: What no later try changes; all else (no process, thread, descriptor or memory is left) may pass.
_NEVER = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.EISDIR, errno.EPERM)
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.2, 10.0
#: Where a name has more addresses, one that answers nothing shall not hold up the next for long.
FIRST_PATIENCE_SECONDS = 2.0
#: A master that many nodes join at once may be late with an answer; three times late, it is none.
UNANSWERED_MAX = 3
#: How long a node that ends stays for what is not sent yet, and how often it looks.
SEND_SECONDS, SENT_LOOK_SECONDS = 2.0, 0.02
#: SIGKILL needs no more; a task's own child may hold the output open for 0.2 s.
LEAVE_SECONDS = 1.0
#: So long after a job's end, what its tasks have left behind is looked for; at most once in that time.
LOOK_SECONDS = 1.0

#: A terminal's Ctrl-C is for us, from a worker process's first moment; and its group can be killed as one.
if WINDOWS:
    _OWN_SESSION = {"creationflags": 0x200}  # type: dict # CREATE_NEW_PROCESS_GROUP, unnamed in 2.7 and elsewhere
else:
    _OWN_SESSION = {"preexec_fn": os.setsid} if PY2 else {"start_new_session": True}  # py2

#: A worker process inherits one end of a pair of sockets, where it can: that needs no network, not even loopback.
PAIRS = not (PY2 or WINDOWS)


def describe():
    # type: () -> dict
    """What a node tells of itself: plain data."""
    return {
        "hostname": native(socket.gethostname()),
        "pid": os.getpid(),
        "python": "%d.%d.%d" % sys.version_info[:3],
        # As platform.system(), which starts a process for it, with the key in its environment.
        "platform": os.uname()[0] if hasattr(os, "uname") else "Windows" if WINDOWS else sys.platform,
    }


class _Child(object):
    """A worker process, its connection once it has one, and the last it printed."""

    def __init__(self, slot, process, family):
        # type: (int, subprocess.Popen, orphans.Family) -> None
        self.slot, self.process, self.family = slot, process, family
        self.waiter = None  # type: threading.Thread | None # ends with the process
        self.helpers = set()  # type: set # processes that are no litter of tasks
        self.connection = None  # type: Connection | None
        self.pair = None  # type: Connection | None # the same, from its start on, where it has inherited its end
        self.output = None  # type: Reader # type: ignore[assignment] # from its first moment on
        self.peak_before = _peak(resource.getrusage(resource.RUSAGE_SELF)) if resource else 0


class Node(object):
    """Carries out its agent's effects. ``send`` takes messages for the master.

    ``finished(reason, refused)`` is called in the loop's thread when all processes are gone.
    """

    def __init__(self, loop, slots, send, drop_link, finished):
        # type: (Loop, int, object, object, object) -> None
        self.id = os.urandom(16)
        self._loop, self._send, self._drop_link, self._finished = loop, send, drop_link, finished
        self._slots = slots
        self._agent = brain.Agent(slots, dict(describe(), id=hexadecimal(self.id)))
        self._events = deque()  # type: deque
        self._children = {}  # type: dict # slot -> _Child
        self._started = 0  # worker processes so far
        self._guardian = None  # type: subprocess.Popen | None
        self._brief = []  # type: list # threads that end by themselves soon, and hold up no step of the loop
        self._look_at = None  # type: float | None
        self._look_slots = set()  # type: set # whose jobs are over
        self._key = protocol.generate_key(os.urandom(32))
        self._listener = None  # type: Listener | None
        self._end = None  # type: brain.Finished | None
        self._files = Files()
        self._effects = {
            brain.ToMaster: lambda effect: self._send(effect.message),  # type: ignore[operator]
            brain.ToChild: self._to_child,
            brain.StartChild: self._start_child,
            brain.KillChild: self._kill_child,
            brain.Keep: self._keep,
            brain.Discard: lambda effect: self._files.discard(effect.name),
            brain.LookBehind: self._look_behind,
            brain.DropLink: lambda effect: self._drop_link(effect.reason),  # type: ignore[operator]
            brain.Finished: self._on_finished,
            brain.Warn: lambda effect: log.warning("%s", effect.text),
        }  # type: dict

    # -- for the loop -----------------------------------------------------------------------------

    def open(self):
        # type: () -> None
        """Worker processes can come. Raises OSError where there is nothing left for that."""
        if PAIRS:
            for each in socketpair():
                each.close()
        elif self._listener is None:
            self._listener = Listener(self._loop, "127.0.0.1", 0, self._accepted, expected=self._slots)

    def tell(self, event):
        # type: (tuple) -> None
        """Something happened; it is handled in the next step."""
        self._events.append(event)

    def step(self, now):
        # type: (float) -> None
        while self._events:
            self._handle(self._events.popleft(), now)
        self._handle(brain.TimePassed(), now)
        if self._look_at is not None and now >= self._look_at:
            children = [self._children[slot] for slot in self._look_slots if slot in self._children]
            known = [child.process.pid for child in self._children.values()]
            self._look_at, self._look_slots = None, set()
            try:
                self._start_brief("look", self._look, children, known)
            except threading.ThreadError:  # what is left behind has taken all that this user may have
                self._look(children, known)

    def _handle(self, event, now):
        # type: (tuple, float) -> None
        for effect in self._agent.effects_of(event, now):
            self._loop.spare(self._effects[type(effect)], effect, self._effect_failed)

    def _effect_failed(self, effect, error):
        # type: (object, BaseException) -> None
        """It costs the worker process that it was for; where there is none yet, the next try may have one."""
        if isinstance(effect, brain.StartChild):
            info = {"exit": "%s: %s" % (type(error).__name__, error), "lines": []}
            self.tell(brain.ChildExited(effect.slot, info))
            return
        log.exception("%s failed, and the rest goes on; please report this", type(effect).__name__)
        child = self._children.get(getattr(effect, "slot", None))
        if child is not None:
            _kill(child.process)

    def pids(self):
        # type: () -> list
        return [child.process.pid for child in self._children.values()]

    def deadline(self):
        # type: () -> float | None
        if self._events:
            return 0.0
        moments = [moment for moment in (self._look_at, self._agent.deadline()) if moment is not None]
        return min(moments) if moments else None

    def snapshot(self):
        # type: () -> dict
        return self._agent.snapshot()

    # -- worker processes -------------------------------------------------------------------------

    def _start_child(self, effect):
        # type: (brain.StartChild) -> None
        try:
            self.open()
            self._watch_over()
            if PAIRS:
                ours, theirs = socketpair()
                with theirs:
                    self._start_process(effect.slot, ours, theirs.fileno())
            else:
                self._start_process(effect.slot, None, self._listener.port)  # type: ignore[union-attr]
        except (EnvironmentError, socket.error, threading.ThreadError, errors.StartError) as error:
            self.tell(brain.ChildExited(effect.slot, _why_not_started(error)))

    def _start_process(self, slot, ours, theirs):
        # type: (int, socket.socket | None, int) -> None
        """ours, theirs: the ends of a pair; or None and our port."""
        try:
            process, family = self._new_process(() if ours is None else (theirs,))
            child = self._children[slot] = _Child(slot, process, family)
            try:
                self._accompany(child)
                if ours is not None:
                    ours.setblocking(False)
                    child.pair = self._accepted(ours, "worker process %d" % process.pid)
            except (OSError, threading.ThreadError):
                del self._children[slot]
                _end_half_started(process)
                raise
        except BaseException:
            if ours is not None:
                ours.close()
            raise
        self._tell_start(child, {"port" if ours is None else "descriptor": theirs})

    def _watch_over(self):
        # type: () -> None
        """The guardian, unless there is one: all that is started from now on ends with us."""
        if self._guardian is None:
            self._guardian = guardian = orphans.start_guardian(self.id)
            if guardian is not None:
                try:
                    self._start_brief("guardian", self._wait_for_guardian, guardian)
                except threading.ThreadError:
                    self._wait_for_guardian(guardian)  # it forks and ends

    def _start_brief(self, name, function, *arguments):
        # type: (str, object, *object) -> None
        self._brief = [each for each in self._brief if each.is_alive()] + [_thread(name, function, *arguments)]

    def _wait_for_guardian(self, guardian):
        # type: (subprocess.Popen) -> None
        if not orphans.seen_off(guardian):  # no process or memory was left: the next worker process brings another
            self._loop.call(setattr, self, "_guardian", None)

    def _new_process(self, inherited):
        # type: (tuple) -> tuple
        self._started += 1
        inheriting = {"pass_fds": inherited} if inherited else {"close_fds": not (PY2 and WINDOWS)}  # type: dict
        family = orphans.Family(self.id, self._started)
        process = subprocess.Popen(
            boot.command("node.worker", "main", boot.options()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(child_environment(self._slots), **family.variable()),
            cwd=boot.folder(),
            bufsize=0,
            **dict(_OWN_SESSION, **inheriting)
        )
        family.has(process)
        return process, family

    def _accompany(self, child):
        # type: (_Child) -> None
        """Its threads. Raises ThreadError where there can be no more."""
        printed = partial(self._loop.call, self._printed, child)
        child.output = Reader(child.process.stdout, child.process.stderr, printed)
        child.output.start()
        child.waiter = _thread("waiter", self._wait, child)

    def _tell_start(self, child, where):
        # type: (_Child, dict) -> None
        told = dict(where, key=self._key, slot=child.slot, path=boot.told_paths())
        try:
            write_quietly(child.process.stdin, json.dumps(told).encode("ascii") + b"\n")
        except (OSError, IOError):
            pass  # it has ended already; the waiter tells

    def _wait(self, child):
        # type: (_Child) -> None
        code, peak = _wait_for(child.process)
        _kill_group(child.process.pid)
        try:
            child.family.end()  # what its tasks had started and left behind, wherever it is now
        except (EnvironmentError, threading.ThreadError) as error:  # no descriptor is left to look for it
            log.warning("what worker process %d has left behind cannot be looked for: %s", child.process.pid, error)
        child.output.finish()
        self._loop.call(self._exited, child, code, peak)

    def _look_behind(self, effect):
        # type: (brain.LookBehind) -> None
        self._look_slots.add(effect.slot)
        if self._look_at is None and orphans.looks_are_cheap():
            self._look_at = monotonic() + LOOK_SECONDS

    def _look(self, children, known):
        # type: (list, list) -> None
        """Which of these worker processes have others below them; most jobs leave none, which one look shows."""
        try:
            if set(orphans.marked(orphans.node_mark(self.id))) <= set(known):
                return
            for child in children:
                others = set(orphans.marked(child.family.mark)) - {child.process.pid}
                if not all(orphans.is_below(each, child.helpers) for each in others):
                    self._loop.call(self._left_behind, child)
        except EnvironmentError as error:  # no descriptor is left for it
            log.warning("what tasks have left behind cannot be looked for: %s", error)

    def _left_behind(self, child):
        # type: (_Child) -> None
        if self._children.get(child.slot) is child:
            self.tell(brain.LeftBehind(child.slot))

    def _accepted(self, sock, where):
        # type: (socket.socket, str) -> Connection
        handshake = protocol.ServerHandshake(
            self._key, os.urandom(16), os.urandom(32), 0, 0, tagged=False, pickle_protocol=PICKLE_PROTOCOL
        )
        # The agent ends what does not begin in time; on a full machine an answer may take longer than a stranger gets.
        return Connection(self._loop, sock, handshake, self, where, patience=brain.START_SECONDS)

    def opened(self, connection):
        # type: (Connection) -> None
        name = native(connection.peer.node_id.rstrip(b"\0"))  # type: ignore[union-attr]
        child = self._children.get(int(name[4:])) if name.startswith("slot") else None
        if child is None or child.connection is not None:
            connection.close(None)
            return
        child.connection = connection
        connection.about = child
        self.tell(brain.ChildReady(child.slot))

    def received(self, connection, messages):
        # type: (Connection, list) -> None
        for message in messages:
            checks.check(message, checks.CHILD)
            if isinstance(message, protocol.Helpers):
                connection.about.helpers.update(message.info["pids"])  # type: ignore[attr-defined]
                continue
            self.tell(brain.ChildSaid(connection.about.slot, message))  # type: ignore[attr-defined]

    def closed(self, connection, error):
        # type: (Connection, BaseException | None) -> None
        if connection.about is not None:
            _kill(connection.about.process)  # type: ignore[attr-defined] # its end is told by the waiter

    def _exited(self, child, code, peak):
        # type: (_Child, int, int) -> None
        while child.connection is not None and child.connection.readable():
            pass  # its last results may have arrived a moment before
        if self._children.get(child.slot) is child:
            del self._children[child.slot]
        child.output.close()
        if child.connection is not None:
            child.connection.about = None
            child.connection.close(None)
        elif child.pair is not None:
            child.pair.close(None)
        try:
            child.process.stdin.close()  # type: ignore[union-attr]
        except (OSError, IOError):
            pass
        info = {"exit": exit_in_words(code), "lines": child.output.last_lines()}  # type: dict
        if code == -9:  # when it was us, nobody asks
            info.update(exit=info["exit"] + ", perhaps out of memory", memory=True)
        if peak > child.peak_before:
            info["peak_memory"] = peak
        self.tell(brain.ChildExited(child.slot, info))
        self._finish_when_empty()

    def _to_child(self, effect):
        # type: (brain.ToChild) -> None
        child = self._children.get(effect.slot)
        if child is not None and child.connection is not None:
            child.connection.send(effect.message)

    def _keep(self, effect):
        # type: (brain.Keep) -> None
        """A shared object has come: into a file, for all worker processes (the master's own serve as they are)."""
        info = effect.info
        try:
            if "path" not in info:
                info = dict(self._files.keep(effect.name, effect.payload), needs=info.get("needs", ""))
        except (OSError, IOError) as error:
            info = {"found": False, "error": "it cannot be kept on this node: %s" % error}
        self.tell(brain.Kept(effect.name, info))

    def _kill_child(self, effect):
        # type: (brain.KillChild) -> None
        child = self._children.get(effect.slot)
        if child is not None:
            _kill(child.process)

    def _on_finished(self, effect):
        # type: (brain.Finished) -> None
        self._end = effect
        if self._listener is not None:
            self._listener.close()
        self._finish_when_empty()

    def _finish_when_empty(self):
        # type: () -> None
        if self._end is not None and not self._children:
            self._files.close()
            self.dismiss()
            self._finished(self._end.reason, self._end.refused)  # type: ignore[operator]
            self._finished = lambda reason, refused: None

    def dismiss(self):
        # type: () -> None
        """The guardian and the brief threads, when all worker processes are gone."""
        if self._guardian is not None:
            self._guardian.stdin.close()  # type: ignore[union-attr]
        for thread in self._brief:
            thread.join(LEAVE_SECONDS)  # 2.7 shows a traceback for a thread that ends with the interpreter

    # -- what tasks print -------------------------------------------------------------------------

    def _printed(self, child, stream, text):
        # type: (_Child, str, object) -> None
        """At once: the next step may be after the end."""
        child.output.taken()
        output = protocol.Output({"pid": child.process.pid, "stream": stream, "text": text})
        self._handle(brain.ChildSaid(child.slot, output), monotonic())


def child_environment(slots):
    # type: (int) -> dict
    """A worker process's environment variables: ours, without the key, with thread caps."""
    variables = boot.variables()
    for name in THREAD_VARIABLES:
        variables.setdefault(name, str(max(1, cpu_count() // slots)))
    return variables


def exit_in_words(code):
    # type: (int) -> str
    if code >= 0:
        return "exit code %d" % code
    names = [name for name in dir(signal) if name.startswith("SIG") and getattr(signal, name) == -code]
    return "killed by signal %d%s" % (-code, " (%s)" % names[0] if names else "")


def _wait_for(process):
    # type: (subprocess.Popen) -> tuple
    """(exit code, most bytes of memory it had, 0 if unknown) when it has ended."""
    while resource is not None:
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except (OSError, IOError) as error:
            if error.errno == errno.EINTR:  # py2
                continue
            break  # somebody else has waited for it, or does for all (SIGCHLD is ignored)
        process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return process.returncode, _peak(usage)
    return process.wait(), 0


def _peak(usage):
    # type: (resource.struct_rusage) -> int
    """Bytes. A process's own begins with that of the one that started it, so less than that says nothing."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _kill(process):
    # type: (subprocess.Popen) -> None
    try:
        if hasattr(os, "killpg") and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (OSError, AttributeError):
        pass  # it is gone already


def _why_not_started(error):
    # type: (BaseException) -> dict
    if isinstance(error, errors.StartError):
        return {"exit": str(error), "lines": [], "shortage": False}
    text = "cannot start %s: %s" % (sys.executable, error)
    return {"exit": text, "lines": [], "shortage": getattr(error, "errno", None) not in _NEVER}


def _end_half_started(process):
    # type: (subprocess.Popen) -> None
    """There is no thread that could watch it."""
    _kill(process)
    process.wait()
    process.stdin.close()  # type: ignore[union-attr] # who reads its output closes that


def _kill_group(pid):
    # type: (int) -> None
    try:
        os.killpg(pid, signal.SIGKILL)
    except (OSError, AttributeError):
        pass  # nobody is left in it; Windows has no groups


def _thread(name, function, *arguments):
    # type: (str, object, *object) -> threading.Thread
    thread = threading.Thread(target=function, name="minimalcluster-" + name, args=arguments)  # type: ignore[arg-type]
    thread.daemon = True
    thread.start()
    return thread


class WorkerNode(object):
    """A machine that works for a master.

    IP, PORT, AUTHKEY: the master's, as it was started with. nprocs: worker processes; fewer than
    1 or more than the processors means as many as there are processors, with a warning. quiet:
    connection news go to the log as DEBUG instead of WARNING and INFO.
    """

    def __init__(self, IP, PORT, AUTHKEY, nprocs, quiet=False):
        # type: (str, int, object, int, bool) -> None
        forbid_patched_threads()
        if not isinstance(PORT, integer_types) or not 0 < PORT < 65536:
            raise ValueError("PORT must be a port of the master (1 to 65535), not %r" % (PORT,))
        if not AUTHKEY:
            raise ValueError("AUTHKEY must be the master's key; it is %r" % (AUTHKEY,))
        if not isinstance(nprocs, integer_types):
            raise TypeError("nprocs must be a whole number, not %r" % (nprocs,))
        self.IP, self.PORT, self.quiet = checked_host(IP, "IP"), PORT, quiet
        self._authkey = AUTHKEY
        protocol.warn_of_odd_key(AUTHKEY, log.warning)
        processors = cpu_count()
        if not 1 <= nprocs <= processors:
            log.warning("nprocs=%d changed to %d, the processors that this process may use", nprocs, processors)
            nprocs = processors
        self.nprocs = nprocs

    def join_cluster(self):
        # type: () -> None
        """Work until the master shuts down, then return.

        A master that is not there yet or is lost is tried again and again, at growing, jittered
        intervals of up to 10 s, at each of its addresses. Raises AuthenticationError (another key), VersionMismatch
        (Python 2 with 3), ProtocolError or, when three connections in a row stay without an answer,
        HandshakeTimeout (no master at that address), and StartError when no worker process can be started.
        """
        boot.executable()
        _Member(self).run()


class _Member(object):
    """One ``join_cluster``: the loop, the node and the link that reconnects."""

    def __init__(self, worker):
        # type: (WorkerNode) -> None
        self._worker = worker
        self._where = in_words((worker.IP, worker.PORT))
        self._loop = Loop()
        self._node = Node(self._loop, worker.nprocs, self._send, self._drop, self._on_finished)
        self._connection = None  # type: Connection | None
        self._retry_at = 0.0  # type: float | None # None while a connection is there or on its way
        self._addresses = []  # type: list # of the master's name, those that this try has not come to
        self._failures = []  # type: list # what came of the others
        self._tries = 0
        self._been_in = False
        self._unanswered = 0
        self._ending = False  # the master has said Farewell: the end of the link is no loss
        self._error = None  # type: BaseException | None

    def run(self):
        # type: () -> None
        self._loop.join(self)
        try:
            self._loop.run()
        except KeyboardInterrupt:
            self._leave_now()
            raise
        finally:
            self._loop.leave(self)
            self._loop.close()
        if self._error is not None:
            raise self._error

    def _leave_now(self):
        # type: () -> None
        """Tidy within a moment: the master hears it, the processes are gone."""
        self._send(protocol.Farewell({"left": True}))
        if self._connection is not None:
            self._connection.write()
        children = list(self._node._children.values())
        for child in children:
            _kill(child.process)
        for child in children:
            if child.waiter is not None:
                child.waiter.join(LEAVE_SECONDS)  # 2.7 shows a traceback for a thread that ends with the interpreter
        self._node.dismiss()

    # -- as participant of the loop ---------------------------------------------------------------

    def step(self, now):
        # type: (float) -> None
        if self._retry_at is not None and now >= self._retry_at:
            self._dial()
        self._node.step(now)

    def deadline(self):
        # type: () -> float | None
        moments = [moment for moment in (self._retry_at, self._node.deadline()) if moment is not None]
        return min(moments) if moments else None

    # -- the link ---------------------------------------------------------------------------------

    def _dial(self):
        # type: () -> None
        self._retry_at, self._failures = None, []
        try:
            self._addresses = resolve(self._worker.IP, self._worker.PORT)
        except errors.ConnectionFailed as error:
            self._try_again(error)
            return
        self._dial_next()

    def _dial_next(self):
        # type: () -> None
        while self._addresses:
            found = self._addresses.pop(0)
            patience = FIRST_PATIENCE_SECONDS if self._addresses else None
            where = in_words(found[4]) if self._addresses or self._failures else self._where
            handshake = protocol.ClientHandshake(
                self._worker._authkey, os.urandom(32), protocol.NODE, self._node.id, sys.version_info[:2], where,
                PICKLE_PROTOCOL,
            )  # fmt: skip
            try:
                sock = dial(found)
            except errors.ConnectionFailed as error:
                self._failures.append(error)
                continue
            try:
                self._connection = Connection(self._loop, sock, handshake, self, where, True, patience)
                return
            except (OSError, socket.error) as error:
                sock.close()
                self._failures.append(errors.ConnectionFailed("cannot connect to %s: %s" % (where, error)))
        self._all_failed()

    def _all_failed(self):
        # type: () -> None
        """At none of its addresses. What no other try can change ends it."""
        fatal = [error for error in self._failures if self._is_fatal(error)]
        if fatal:
            self._error = fatal[0]
            self._loop.stop()
            return
        text = "; ".join(map(str, self._failures))
        if self._where not in text:  # its name
            text = "%s: %s" % (self._where, text)
        self._try_again(errors.ConnectionFailed(text))

    def _is_fatal(self, error):
        # type: (BaseException) -> bool
        if isinstance(error, errors.HandshakeTimeout):
            return self._is_unheard()
        return isinstance(error, (errors.AuthenticationError, errors.VersionMismatch, errors.ProtocolError))

    def _try_again(self, error):
        # type: (BaseException | None) -> None
        self._tries += 1
        longest = min(RETRY_SECONDS_MAX, RETRY_SECONDS_MIN * 2 ** min(self._tries, 10))
        wait = random.uniform(RETRY_SECONDS_MIN / 2, longest)
        self._retry_at = monotonic() + wait
        level = logging.DEBUG if self._worker.quiet else logging.WARNING
        log.log(level, "%s; next try in %.1f s", error, wait)

    def opened(self, connection):
        # type: (Connection) -> None
        self._tries = 0
        self._been_in = True
        log.log(logging.DEBUG if self._worker.quiet else logging.INFO, "connected to the master at %s", self._where)
        self._node.tell(brain.LinkUp())

    def received(self, connection, messages):
        # type: (Connection, list) -> None
        self._node.tell(brain.MasterHeard())
        for message in messages:
            checks.check(message, checks.MASTER)
            self._ending = self._ending or isinstance(message, protocol.Farewell)
            self._node.tell(brain.MasterSaid(message))

    def closed(self, connection, error):
        # type: (Connection, BaseException | None) -> None
        self._connection = None
        if error is None or self._ending:
            return
        if connection.peer is not None:
            self._node.tell(brain.LinkDown())
            self._try_again(error)
        else:
            self._failures.append(error)
            self._dial_next()

    def _is_unheard(self):
        # type: () -> bool
        """Nothing there has ever answered, though it was asked often enough for a master with much to do."""
        self._unanswered += 1
        return not self._been_in and self._unanswered >= UNANSWERED_MAX

    def _send(self, message):
        # type: (tuple) -> None
        if self._connection is not None:
            self._connection.send(message)

    def _drop(self, reason):
        # type: (str) -> None
        if self._connection is not None:
            self._connection.close(errors.ConnectionFailed(reason))

    def _on_finished(self, reason, refused):
        # type: (str, str | None) -> None
        if refused:
            self._error = errors.VersionMismatch(native(refused))
        self._stop_when_sent(monotonic() + SEND_SECONDS)

    def _stop_when_sent(self, until):
        # type: (float) -> None
        """What tasks printed last may be on its way."""
        if self._connection is not None and monotonic() < until:
            self._connection.write()
            if self._connection is not None and self._connection.has_unsent:
                self._loop.later(SENT_LOOK_SECONDS, lambda: self._stop_when_sent(until))
                return
        self._loop.stop()
