"""The node's brain: its slots, the attempts it holds, what the master has not acknowledged yet. Pure.

::

    master --Grant--> held --idle slot--> worker process --Done, Failed--> report --> master
                                                                             |
                                             kept until Acknowledge <--------+

Rules:

* A message that the master must not miss (a report) has a number and is kept until the master acknowledges it; after
  a reconnection the master hears first which attempts are held, then all kept reports, in order.
* A worker process that dies is reported with the first task it had not finished, and replaced.
* Without a master the work goes on for ``ALONE_SECONDS``; then everything held is dropped.
* A worker process's request to the master (for a module, a shared object) is sent again after a
  reconnection; a shared object is kept in a file and requested once per node.
* A time limit is for the task's own code: it counts from the moment when the worker process says that this code
  begins. The steps before it (imports, an initializer, unpickling) have a limit of their own, ``READY_SECONDS``.
* Any byte from the master is a sign of life, and both sides send heartbeats: a slow connection is not taken for dead.
* An exclusive attempt (a task that was killed when the machine was short of memory) runs when nothing else does.
* Draining: tasks that have not started are given back, running tasks end; then the node is finished.
"""
from __future__ import absolute_import, division, print_function

import heapq
from collections import OrderedDict, namedtuple

from ..wire import protocol
from .history import WithHistory

HEARTBEAT_SECONDS = 2.0
#: The master's heartbeats come as often. When no byte of five of them has come, the master is gone
#: (docs/reliability.md, rows 16, 28).
MASTER_LOST_SECONDS = 10.0
ALONE_SECONDS = 60.0
#: A revoked task that does not end by itself within this time is ended with its process.
KILL_SECONDS = 0.5
#: A new process that has not spoken by then (a hanging import, a full machine) is ended and tried again.
START_SECONDS = 60.0
#: How long a worker process may take from a chunk, or its last outcome, to the next task's own code, if tasks have a
#: time limit; or as long as that is, if it is longer. Imports from a slow disk and initializers take minutes.
READY_SECONDS = 600.0
RESTART_SECONDS_MIN, RESTART_SECONDS_MAX = 0.1, 10.0
#: While a node has no worker process and none can start, it gives back the attempts that it holds. The master then
#: gives up jobs that only such nodes could run, STUCK_SECONDS later if none has ever started there, else SHORT_SECONDS
#: later: the system may be short of something for a while.
STUCK_SECONDS, SHORT_SECONDS = 8.0, 60.0
#: How long a worker process that leaves may take for its exit handlers.
LEAVE_SECONDS = 10.0
#: Characters that tasks print while the master is away and that are kept; more are only counted.
UNSAID_CHARACTERS_MAX = 1 << 20
#: Characters of the reason why a worker process does not start.
TROUBLE_MAX = 300
HISTORY_LENGTH = 500
#: Sources of modules, of some 10 KiB each.
MODULES_KEPT_MAX = 1000
_TOO_LONG = "the call took longer than %g s and was ended"
_NOT_READY = (
    "the call was not begun within %g s and was ended: its worker process was not ready for it (imports, the script "
    "or environment, an initializer, unpickling the function and its arguments)"
)

# -- events ---------------------------------------------------------------------------------------
LinkUp = namedtuple("LinkUp", "")
LinkDown = namedtuple("LinkDown", "")
MasterSaid = namedtuple("MasterSaid", "message")
MasterHeard = namedtuple("MasterHeard", "")  # some bytes of the master have come: a part of a message, perhaps
ChildReady = namedtuple("ChildReady", "slot")
ChildSaid = namedtuple("ChildSaid", "slot message")
ChildExited = namedtuple("ChildExited", "slot info")
Kept = namedtuple("Kept", "name info")
LeftBehind = namedtuple("LeftBehind", "slot")
DrainAsked = namedtuple("DrainAsked", "")
SlotsAdded = namedtuple("SlotsAdded", "count")
TimePassed = namedtuple("TimePassed", "")

# -- effects --------------------------------------------------------------------------------------
ToMaster = namedtuple("ToMaster", "message")
ToChild = namedtuple("ToChild", "slot message")
StartChild = namedtuple("StartChild", "slot")
KillChild = namedtuple("KillChild", "slot")
Keep = namedtuple("Keep", "name info payload")
Discard = namedtuple("Discard", "name")
LookBehind = namedtuple("LookBehind", "slot")
DropLink = namedtuple("DropLink", "reason")
Finished = namedtuple("Finished", "reason refused")
Warn = namedtuple("Warn", "text")

# States of a slot.
EMPTY, STARTING, IDLE, RUNNING, LEAVING = "empty", "starting", "idle", "running", "leaving"


class _Slot(object):
    __slots__ = (
        "attempt", "failures", "has_begun", "jobs", "kill_at", "last", "number", "start_at", "state", "timeout",
        "timeout_at",
    )  # fmt: skip

    def __init__(self, number):
        # type: (int) -> None
        self.number = number
        self.state = EMPTY
        self.start_at = 0.0  # when an empty slot may start a process
        self.failures = 0  # starts in a row that failed
        self.attempt = None  # type: int | None
        self.jobs = set()  # type: set # defined in this process
        self.kill_at = None  # type: float | None
        self.last = False  # its process leaves when this attempt ends
        self.timeout = None  # type: float | None # seconds a task of its attempt may take
        self.has_begun = False  # the task's own code has begun: the time limit is for that
        self.timeout_at = None  # type: float | None


class _Held(object):
    __slots__ = ("end", "grant", "is_exclusive", "next", "slot")

    def __init__(self, grant):
        # type: (protocol.Grant) -> None
        self.grant = grant  # type: protocol.Grant | None # None once a worker process has it
        self.next = grant.first  # the first task without an outcome
        self.end = grant.first + grant.count
        self.is_exclusive = grant.careful == protocol.EXCLUSIVE
        self.slot = None  # type: _Slot | None

    def fits(self, message):
        # type: (tuple) -> bool
        """Outcomes come in the order of the tasks, and only for tasks of this attempt."""
        first = message.first  # type: ignore[attr-defined]
        if isinstance(message, protocol.Released):
            return self.next <= first <= self.end
        if isinstance(message, protocol.Unfit):
            return first == self.next
        count = message.count if isinstance(message, protocol.Done) else 1
        return first == self.next and first + count <= self.end


class Agent(WithHistory):
    """See the module's text. ``about`` is what the node tells of itself when it joins (plain data)."""

    def __init__(self, slots, about):
        # type: (int, dict) -> None
        super(Agent, self).__init__(HISTORY_LENGTH)
        self._slots = []  # type: list[_Slot]
        self._idle = []  # type: list[int] # a heap of slots that were idle when they came here
        self._timed = set()  # type: set[int] # slots for which something is due at some time: all others need no look
        self._touched = []  # type: list[_Slot] # by this event, and not filed in ``_timed`` yet
        self._about = about
        self._held = OrderedDict()  # type: OrderedDict # attempt -> _Held
        self._waiting = OrderedDict()  # type: OrderedDict # those of them that no slot has
        self._exclusive = None  # type: int | None # the attempt that began last, if nothing may run beside it
        self._reports = OrderedDict()  # type: OrderedDict # number -> message, not acknowledged
        self._definitions = {}  # type: dict # job -> DefineJob
        self._over = set()  # type: set # of those, what the master does not want any more
        self._next_report = 1
        self._fetches = OrderedDict()  # type: OrderedDict # our request -> (Fetch as sent, [(slot, its request)])
        self._next_fetch = 1
        self._unsaid, self._unsaid_size, self._unsaid_lines = [], 0, 0  # type: list, int, int # printed meanwhile
        self._trouble = ""  # why a worker process did not start, until one does
        self._stuck = None  # type: float | None # none is there, none starts: so long it may be waited for
        self._patience = STUCK_SECONDS
        self._files = {}  # type: dict # shared object -> where it lies, as the shell reported
        self._modules = OrderedDict()  # type: OrderedDict # code and module -> (info, payload), as the master has answered
        self._linked = False  # a connection is there
        self._joined = False  # and the master has admitted this node
        self._heard_at = 0.0
        self._beat_at = 0.0
        self._due = None  # type: float | None # when time was to pass next
        self._alone_at = None  # type: float | None
        self._serving = False  # worker processes are wanted
        self._draining = False
        self._finished = False
        self._add_slots(slots)
        self._effects = []  # type: list
        self._handlers = {
            LinkUp: self._link_up, LinkDown: self._link_down, MasterSaid: self._master_said,
            MasterHeard: self._master_heard, ChildReady: self._child_ready, ChildSaid: self._child_said,
            ChildExited: self._child_exited, DrainAsked: self._drain_asked, TimePassed: self._time_passed,
            Kept: self._kept, LeftBehind: self._left_behind, SlotsAdded: self._slots_added,
        }  # type: dict # fmt: skip
        self._said = {
            protocol.Joined: self._on_joined, protocol.DefineJob: self._on_define, protocol.Grant: self._on_grant,
            protocol.Revoke: self._on_revoke, protocol.ForgetJob: self._on_forget,
            protocol.Acknowledge: self._on_acknowledge, protocol.Farewell: self._on_farewell,
            protocol.Fetched: self._on_fetched, protocol.Drop: self._on_drop,
        }  # type: dict # fmt: skip

    # -- the one door -----------------------------------------------------------------------------

    def handle(self, event, now):
        # type: (tuple, float) -> list
        """All changes go through here. Send ``TimePassed`` once after each batch of events."""
        self._effects = []
        self._now = now
        # Output of a worker process may still follow the Farewell that finished this node.
        if not self._finished or isinstance(getattr(event, "message", None), protocol.Output):
            self._handlers[type(event)](event)
        else:
            self._after_the_end(event)
        if self._touched:
            self._file()
        return self._effects

    def deadline(self):
        # type: () -> float | None
        timed = self._timed_slots()
        moments = [slot.kill_at for slot in timed if slot.kill_at is not None]
        if self._finished:
            return min(moments) if moments else None
        moments += [slot.timeout_at for slot in timed if slot.timeout_at is not None]
        if self._serving:
            moments += [slot.start_at for slot in timed if slot.state == EMPTY]
        if self._linked:
            moments += [self._beat_at, self._heard_at + MASTER_LOST_SECONDS]
        elif self._alone_at is not None:
            moments.append(self._alone_at)
        return min(moments) if moments else None

    def _file(self):
        # type: () -> None
        """The slots for which something may be due. A machine may have hundreds of slots, an engine thousands: a pass
        looks at these alone."""
        for slot in self._touched:
            if slot.kill_at is not None or slot.timeout_at is not None or slot.state == EMPTY:
                self._timed.add(slot.number)
            else:
                self._timed.discard(slot.number)
        self._touched = []

    def _timed_slots(self):
        # type: () -> list[_Slot]
        if self._touched:
            self._file()
        return [self._slots[number] for number in sorted(self._timed)] if self._timed else []

    # -- the link ---------------------------------------------------------------------------------

    def _link_up(self, event):
        # type: (LinkUp) -> None
        self._linked, self._joined = True, False
        self._remember("link", "up")
        self._alone_at = None
        self._heard_at = self._now
        self._beat_at = self._now + HEARTBEAT_SECONDS
        self._over = set(self._definitions)  # until the master defines them again: these jobs may have ended meanwhile
        about = dict(self._about, slots=len(self._slots), held=self._all_held(), shared=sorted(self._files))
        self._do(ToMaster(protocol.Join(about)))

    def _all_held(self):
        # type: () -> list
        """The attempts of which the master may expect a report. A process that is being killed reports nothing more."""
        reported = {message.attempt for message in self._reports.values()}
        dying = {slot.attempt for slot in self._timed_slots() if slot.kill_at is not None}
        return sorted(reported.union(self._held) - dying)

    def _link_down(self, event):
        # type: (LinkDown) -> None
        if self._linked:
            self._linked = self._joined = False
            self._remember("link", "down")
            self._alone_at = self._now + ALONE_SECONDS
        self._finish_if_drained()

    def _on_joined(self, message):
        # type: (protocol.Joined) -> None
        self._joined = self._serving = True
        if self._stuck is not None:
            self._beat()
        for report in self._reports.values():
            self._do(ToMaster(report))
        for fetch, _ in self._fetches.values():
            self._do(ToMaster(fetch))
        self._say_what_was_printed()
        if self._draining:
            self._do(ToMaster(protocol.Farewell({"draining": True})))

    def _on_farewell(self, message):
        # type: (protocol.Farewell) -> None
        self._finish("the master shut down", message.info.get("refused"), bool(message.info.get("at_once")))

    def _finish(self, reason, refused, at_once=False):
        # type: (str, str | None, bool) -> None
        """Worker processes with nothing to do end as programs do: exit handlers run, open files are flushed."""
        self._finished = True
        self._touched += self._slots
        for slot in self._slots:
            slot.timeout_at = None
            if slot.state == IDLE and not at_once:
                slot.state, slot.kill_at = LEAVING, self._now + LEAVE_SECONDS
                self._do(ToChild(slot.number, protocol.Farewell({})))
            elif slot.state != EMPTY and (at_once or slot.state != LEAVING):
                slot.kill_at = self._now + KILL_SECONDS
                self._do(KillChild(slot.number))
        self._do(Finished(reason, refused))

    def _after_the_end(self, event):
        # type: (tuple) -> None
        """Worker processes leave. Requests of their exit handlers are not answered; a process that is late is ended."""
        if isinstance(event, ChildExited):
            slot = self._slots[event.slot]
            self._held.pop(slot.attempt, None)
            slot.state, slot.attempt, slot.kill_at = EMPTY, None, None
            self._touched.append(slot)
        elif isinstance(event, TimePassed):
            self._kill_who_is_late()
        elif isinstance(event, ChildSaid) and isinstance(event.message, protocol.Fetch):
            info = {"found": False, "error": "the cluster has ended"}
            self._do(ToChild(event.slot, protocol.Fetched(event.message.request, info, [])))

    def _drain_asked(self, event):
        # type: (DrainAsked) -> None
        self._draining = True
        if self._joined:
            self._do(ToMaster(protocol.Farewell({"draining": True})))
        self._finish_if_drained()

    def _slots_added(self, event):
        # type: (SlotsAdded) -> None
        """The node can run more at a time than it could. The master hears of it by the next Join."""
        self._add_slots(event.count)

    def _add_slots(self, count):
        # type: (int) -> None
        added = [_Slot(number) for number in range(len(self._slots), len(self._slots) + count)]
        self._slots += added
        self._touched += added

    def _finish_if_drained(self):
        # type: () -> None
        if self._draining and not self._held and not self._reports:
            if self._joined:
                self._do(ToMaster(protocol.Farewell({"left": True})))
            self._finish("left", None)

    # -- what the master says ---------------------------------------------------------------------

    def _master_heard(self, event):
        # type: (MasterHeard) -> None
        self._heard_at = self._now

    def _master_said(self, event):
        # type: (MasterSaid) -> None
        self._heard_at = self._now
        take = self._said.get(type(event.message))
        if take is None:
            self._do(DropLink("%s is nothing a master says" % type(event.message).__name__))
        else:
            take(event.message)

    def _on_define(self, message):
        # type: (protocol.DefineJob) -> None
        self._definitions[message.job] = message
        self._over.discard(message.job)

    def _on_grant(self, message):
        # type: (protocol.Grant) -> None
        if message.job not in self._definitions:
            self._do(DropLink("it grants a part of job %d, which it has not defined" % message.job))
        elif message.attempt not in self._held and self._stuck is not None:
            self._report(protocol.Released(0, message.attempt, message.first))
        elif message.attempt not in self._held:
            self._held[message.attempt] = self._waiting[message.attempt] = _Held(message)
            self._remember("attempt", message.attempt, "granted", message.first, message.count)
            self._fill()

    def _on_revoke(self, message):
        # type: (protocol.Revoke) -> None
        held = self._held.get(message.attempt)
        self._remember("attempt", message.attempt, "revoked", message.kill)
        if message.kill:
            for number in [n for n, report in self._reports.items() if report.attempt == message.attempt]:
                del self._reports[number]
        if held is None:
            return
        if held.slot is None:
            del self._held[message.attempt], self._waiting[message.attempt]
            if not message.kill:
                self._report(protocol.Released(0, message.attempt, held.next))
            self._fill()  # attempts behind an exclusive one may begin
        else:
            self._do(ToChild(held.slot.number, message))
            if message.kill:
                held.slot.kill_at, held.slot.timeout_at = self._now + KILL_SECONDS, None
                self._touched.append(held.slot)
        self._finish_if_drained()

    def _on_forget(self, message):
        # type: (protocol.ForgetJob) -> None
        self._over.update({message.job}.intersection(self._definitions))
        self._forget_what_is_over()

    def _forget_what_is_over(self):
        # type: () -> None
        """Jobs that are over, but for those with waiting attempts, which need the definition."""
        waiting = {held.grant.job for held in self._waiting.values() if held.grant is not None}
        for job in sorted(self._over - waiting):
            self._over.discard(job)
            del self._definitions[job]
            for slot in self._slots:
                if job in slot.jobs:
                    slot.jobs.discard(job)
                    self._do(ToChild(slot.number, protocol.ForgetJob(job)))
                    self._do(LookBehind(slot.number))

    def _left_behind(self, event):
        # type: (LeftBehind) -> None
        """A job that is over has left processes behind: they end with their worker process, unless it works again."""
        slot = self._slots[event.slot]
        if slot.state == IDLE:
            self._remember("slot", "slot %d" % slot.number, "has children without a job")
            slot.state, slot.kill_at = LEAVING, self._now + KILL_SECONDS
            self._touched.append(slot)
            self._do(KillChild(slot.number))

    def _on_acknowledge(self, message):
        # type: (protocol.Acknowledge) -> None
        for number in [number for number in self._reports if number <= message.report]:
            report = self._reports[number]
            if not isinstance(report, protocol.Released) or not self._goes_on(report.attempt, message.report):
                del self._reports[number]
        self._finish_if_drained()

    def _goes_on(self, attempt, acknowledged):
        # type: (int, int) -> bool
        """More reports of this attempt will come: the next master, if it adopts it, must hear what was given back."""
        later = (report.attempt for number, report in self._reports.items() if number > acknowledged)
        return attempt in self._held or attempt in later

    def _report(self, message):
        # type: (tuple) -> None
        message = message._replace(report=self._next_report)  # type: ignore[attr-defined]
        self._reports[self._next_report] = message
        self._remember("attempt", message.attempt, type(message).__name__, message.first)  # type: ignore[attr-defined]
        self._next_report += 1
        if self._joined:
            self._do(ToMaster(message))

    # -- worker processes -------------------------------------------------------------------------

    def _child_ready(self, event):
        # type: (ChildReady) -> None
        slot = self._slots[event.slot]
        if slot.state != STARTING:
            return
        slot.state, slot.failures, slot.jobs = IDLE, 0, set()
        if not slot.last:  # else it became ready too late, and is being ended
            slot.kill_at = None
        self._touched.append(slot)
        heapq.heappush(self._idle, slot.number)
        self._trouble, self._patience = "", SHORT_SECONDS
        self._notice_whether_stuck()
        self._fill()

    def _fill(self):
        # type: () -> None
        """Give waiting attempts to idle slots, the oldest first."""
        while self._waiting and self._idle and not self._must_wait(next(iter(self._waiting.values()))):
            slot = self._slots[heapq.heappop(self._idle)]
            if slot.state != IDLE:
                continue
            _, held = self._waiting.popitem(last=False)
            grant = held.grant
            held.slot, held.grant = slot, None
            self._exclusive = grant.attempt if held.is_exclusive else None
            slot.state, slot.attempt = RUNNING, grant.attempt
            self._remember("attempt", grant.attempt, "begun", "slot %d" % slot.number)
            definition = self._definitions[grant.job]
            if grant.job not in slot.jobs:
                slot.jobs.add(grant.job)
                self._do(ToChild(slot.number, definition))
            self._do(ToChild(slot.number, grant))
            slot.timeout = definition.info.get("timeout")
            self._limit(slot, False)

    def _must_wait(self, held):
        # type: (_Held) -> bool
        """An exclusive attempt begins when nothing runs, and nothing begins beside it."""
        is_running = len(self._held) > len(self._waiting)
        return is_running and (held.is_exclusive or self._exclusive is not None)

    def _limit(self, slot, has_begun):
        # type: (_Slot, bool) -> None
        """From now on the slot's time limit counts: that of the task's own code, or of the steps before it."""
        self._touched.append(slot)
        slot.has_begun = has_begun
        slot.timeout_at = None if slot.timeout is None else self._now + self._limit_of(slot)

    def _limit_of(self, slot):
        # type: (_Slot) -> float
        return slot.timeout if slot.has_begun else max(slot.timeout, READY_SECONDS)  # type: ignore[return-value,type-var]

    def _child_said(self, event):
        # type: (ChildSaid) -> None
        message = event.message
        if isinstance(message, protocol.Output):
            self._printed(message)
            return
        if isinstance(message, protocol.Helpers):
            return  # the shell takes it, since it knows processes
        slot = self._slots[event.slot]
        if isinstance(message, protocol.Fetch):
            self._fetch(slot, message)
            return
        if isinstance(message, protocol.Leaving):
            slot.last = True
            return
        held = self._held.get(message.attempt)
        if held is None or held.slot is not slot:
            return
        if not isinstance(message, protocol.Begun):
            self._outcome(slot, held, message)
        elif slot.kill_at is None:
            self._limit(slot, True)

    def _outcome(self, slot, held, message):
        # type: (_Slot, _Held, tuple) -> None
        """A worker process reports what of its attempt it has done, gives back, or cannot do."""
        if not held.fits(message):
            self._do(KillChild(slot.number))  # it reports other tasks than it has: nothing of it can be trusted
            return
        revoked = slot.kill_at is not None
        ended = False
        if isinstance(message, (protocol.Done, protocol.Failed)):
            held.next = message.first + (message.count if isinstance(message, protocol.Done) else 1)
            if not revoked:
                self._limit(slot, False)
        elif isinstance(message, protocol.Released):
            held.end = message.first
        else:  # Unfit
            ended = True
        if not revoked:
            self._report(message)
        if ended or held.next == held.end:
            self._end(slot)

    def _printed(self, message):
        # type: (protocol.Output) -> None
        """While the master is away, the output of tasks is kept for it, up to a limit."""
        size = len(message.info["text"])
        if self._joined:
            self._do(ToMaster(message))
        elif self._unsaid_size + size <= UNSAID_CHARACTERS_MAX:
            self._unsaid.append(message)
            self._unsaid_size += size
        else:
            self._unsaid_lines += message.info["text"].count("\n") or 1

    def _say_what_was_printed(self):
        # type: () -> None
        for message in self._unsaid:
            self._do(ToMaster(message))
        if self._unsaid_lines:
            text = "[minimalcluster: %d lines dropped: the master was away]\n" % self._unsaid_lines
            info = {"pid": self._about.get("pid"), "stream": "stderr", "text": text}
            self._do(ToMaster(protocol.Output(info)))
        self._unsaid, self._unsaid_size, self._unsaid_lines = [], 0, 0

    def _end(self, slot):
        # type: (_Slot) -> None
        del self._held[slot.attempt]
        slot.state, slot.attempt, slot.kill_at, slot.timeout_at = IDLE, None, None, None
        self._touched.append(slot)
        if slot.last:
            slot.state, slot.kill_at = LEAVING, self._now + LEAVE_SECONDS
        else:
            heapq.heappush(self._idle, slot.number)
        self._fill()
        self._finish_if_drained()

    def _time_out(self, slot):
        # type: (_Slot) -> None
        """The task has had its time (such jobs come in chunks of one): ending its process does not count as a death."""
        held, seconds = self._held[slot.attempt], self._limit_of(slot)
        info = {"type": "TaskTimeout", "text": (_TOO_LONG if slot.has_begun else _NOT_READY) % seconds}
        slot.last = True
        self._report(protocol.Failed(0, slot.attempt, held.next, int(seconds * 1e9), info, []))
        self._end(slot)
        self._do(KillChild(slot.number))

    def _child_exited(self, event):
        # type: (ChildExited) -> None
        slot = self._slots[event.slot]
        self._remember("slot", "slot %d" % slot.number, "exited", event.info.get("exit"), slot.attempt)
        held = self._held.pop(slot.attempt, None)
        if held is not None and slot.kill_at is None:
            self._report(protocol.Died(0, slot.attempt, held.next, event.info))
        if slot.state == STARTING:
            slot.failures += 1
            wait = min(RESTART_SECONDS_MAX, RESTART_SECONDS_MIN * 2 ** min(slot.failures, 10))
            slot.start_at = self._now + wait
            self._trouble = _why(event.info)[:TROUBLE_MAX]
            if event.info.get("shortage"):
                self._patience = SHORT_SECONDS
            self._do(Warn("a worker process could not start (%s); next try in %.1f s" % (_why(event.info), wait)))
        else:
            slot.start_at = self._now
        slot.state, slot.attempt, slot.kill_at, slot.timeout_at = EMPTY, None, None, None
        slot.jobs, slot.last = set(), False
        self._touched.append(slot)
        for _, askers in self._fetches.values():
            askers[:] = [asker for asker in askers if asker[0] != slot.number]
        self._fill()  # other slots may have waited for this one's exclusive attempt
        self._notice_whether_stuck()
        self._finish_if_drained()

    def _notice_whether_stuck(self):
        # type: () -> None
        """Nothing can run here for now: held attempts go back, so that others run them, or they can be cancelled."""
        stuck = None  # type: float | None
        if self._trouble and not any(slot.state in (IDLE, RUNNING) for slot in self._slots):
            stuck = self._patience
        if (stuck is None) == (self._stuck is None):
            return
        self._stuck = stuck
        self._remember("slot", "slots", "stuck" if stuck else "not stuck")
        if self._joined:
            self._beat()
        if stuck is not None:
            while self._waiting:
                attempt, held = self._waiting.popitem(last=False)
                del self._held[attempt]
                self._report(protocol.Released(0, attempt, held.next))

    # -- what worker processes ask for ------------------------------------------------------------

    def _fetch(self, slot, message):
        # type: (_Slot, protocol.Fetch) -> None
        asker = (slot.number, message.request)
        name = message.info.get("name")
        if message.info.get("what") in ("share", "module"):  # the same for all worker processes
            if name in self._files or name in self._modules:
                self._answer([asker], *(self._modules.get(name) or (self._files[name], [])))
                return
            for sent, askers in self._fetches.values():
                if sent.info == message.info:
                    askers.append(asker)
                    return
        sent = protocol.Fetch(self._next_fetch, message.info)
        self._next_fetch += 1
        self._fetches[sent.request] = (sent, [asker])
        if self._joined:
            self._do(ToMaster(sent))

    def _on_fetched(self, message):
        # type: (protocol.Fetched) -> None
        if message.request not in self._fetches:
            return
        sent, askers = self._fetches[message.request]
        if sent.info.get("what") == "share" and message.info.get("found"):
            self._do(Keep(sent.info["name"], message.info, message.payload))
            return
        if sent.info.get("what") == "module" and message.info.get("found"):
            self._modules[sent.info["name"]] = message.info, message.payload
            if len(self._modules) > MODULES_KEPT_MAX:
                self._modules.popitem(last=False)
        del self._fetches[message.request]
        self._answer(askers, message.info, message.payload)

    def _kept(self, event):
        # type: (Kept) -> None
        """The shell has put a shared object into a file (or could not, and info says why)."""
        if event.info.get("found"):
            self._files[event.name] = event.info
        for number, (sent, askers) in list(self._fetches.items()):
            if sent.info.get("what") == "share" and sent.info["name"] == event.name:
                del self._fetches[number]
                self._answer(askers, event.info, [])

    def _on_drop(self, message):
        # type: (protocol.Drop) -> None
        name = message.info.get("name")
        if self._files.pop(name, None) is not None:
            self._do(Discard(name))
        for slot in self._slots:
            if slot.state in (IDLE, RUNNING):
                self._do(ToChild(slot.number, message))

    def _answer(self, askers, info, payload):
        # type: (list, dict, list) -> None
        for number, request in askers:
            if self._slots[number].state in (IDLE, RUNNING, LEAVING):
                self._do(ToChild(number, protocol.Fetched(request, info, payload)))

    # -- time -------------------------------------------------------------------------------------

    def _kill_who_is_late(self):
        # type: () -> None
        for slot in self._timed_slots():
            if slot.kill_at is not None and self._now >= slot.kill_at:
                slot.last = True  # its last messages may still be on their way; it gets nothing more
                self._do(KillChild(slot.number))
                slot.kill_at = self._now + KILL_SECONDS

    def _time_passed(self, event):
        # type: (TimePassed) -> None
        late = 0.0 if self._due is None else max(0.0, self._now - self._due)
        for slot in self._timed_slots():
            if slot.state == STARTING:
                slot.kill_at = (slot.kill_at or 0.0) + late  # this process was suspended, not the one that starts
            if slot.timeout_at is not None and self._now >= slot.timeout_at:
                self._time_out(slot)
        self._kill_who_is_late()
        for slot in self._timed_slots():
            if self._serving and slot.state == EMPTY and self._now >= slot.start_at:
                slot.state, slot.kill_at = STARTING, self._now + START_SECONDS
                self._do(StartChild(slot.number))
        if self._over and self._joined:
            self._forget_what_is_over()
        if self._linked:
            self._keep_in_touch()
        elif self._alone_at is not None and self._now >= self._alone_at:
            self._alone_at = None
            self._drop_everything()
        due = self.deadline()
        self._due = None if due is None else max(due, self._now)

    def _keep_in_touch(self):
        # type: () -> None
        if self._now >= self._heard_at + MASTER_LOST_SECONDS:
            self._heard_at = self._now
            self._do(DropLink("the master has been silent for %.0f s" % MASTER_LOST_SECONDS))
        elif self._now >= self._beat_at:
            self._beat_at = self._now + HEARTBEAT_SECONDS
            if self._joined:
                self._beat()

    def _beat(self):
        # type: () -> None
        self._do(ToMaster(protocol.Heartbeat(dict(self._starting(), held=self._all_held()))))

    def _starting(self):
        # type: () -> dict
        """For the heartbeat: what the master may tell its user when nothing goes on here."""
        starting = sum(slot.state in (EMPTY, STARTING) for slot in self._timed_slots())
        if self._stuck is not None:
            return {"starting": starting, "trouble": self._trouble, "stuck": self._stuck}
        return {"starting": starting, "trouble": self._trouble} if starting else {}

    def _drop_everything(self):
        # type: () -> None
        self._do(Warn("no master for %.0f s: what was held is dropped" % ALONE_SECONDS))
        self._reports.clear()
        for attempt in self._waiting:
            del self._held[attempt]
        self._waiting.clear()
        self._touched += self._slots
        for slot in self._slots:
            if slot.state == RUNNING:
                slot.kill_at, slot.timeout_at, slot.last = self._now + KILL_SECONDS, None, True
                self._do(KillChild(slot.number))
        self._over = set(self._definitions)
        self._forget_what_is_over()
        self._finish_if_drained()

    def _do(self, effect):
        # type: (tuple) -> None
        self._effects.append(effect)

    # -- for people and tests ---------------------------------------------------------------------

    def _broken(self, what, key):
        # type: (str, object) -> None
        super(Agent, self)._broken("%s: %r" % (what, self.snapshot()), key)

    def snapshot(self):
        # type: () -> dict
        return {
            "slots": [{"state": slot.state, "attempt": slot.attempt} for slot in self._slots],
            "held": list(self._held),
            "reports": list(self._reports),
            "jobs": sorted(self._definitions),
            "joined": self._joined,
            "draining": self._draining,
        }

    def validate(self):
        # type: () -> None
        """Every invariant, for tests."""
        running = {}
        for slot in self._slots:
            if (slot.state == RUNNING) != (slot.attempt is not None):
                self._broken("slot %d is %s with attempt %r" % (slot.number, slot.state, slot.attempt), slot.attempt)
            if slot.attempt is not None:
                running[slot.attempt] = slot
        for attempt, held in self._held.items():
            if held.slot is not running.get(attempt):
                self._broken("attempt %d and its slot disagree" % attempt, attempt)
            if held.grant is not None and held.grant.job not in self._definitions:
                self._broken("attempt %d waits, and its job %d is not defined" % (attempt, held.grant.job), attempt)
            if not held.next <= held.end:
                self._broken("attempt %d has outcomes beyond its end" % attempt, attempt)
        if self._stuck is not None and (running or self._held):
            self._broken("no worker process can start, and attempts are held: %r" % list(self._held), None)
        if not self._over.issubset(self._definitions):
            self._broken("jobs that are not defined are over: %r" % sorted(self._over), None)
        for attempt in set(running) - set(self._held):
            self._broken("a slot runs attempt %d, which is not held" % attempt, attempt)
        if list(self._reports) != sorted(self._reports):
            self._broken("reports are out of order: %r" % list(self._reports), None)
        self._validate_indexes()

    def _validate_indexes(self):
        # type: () -> None
        """The indexes that spare a pass to look at all slots and attempts; what may run together."""
        running = [held for held in self._held.values() if held.slot is not None]
        if len(running) > 1 and any(held.is_exclusive for held in running):
            self._broken("an exclusive attempt runs beside others", None)
        for slot in self._slots:
            is_timed = slot.kill_at is not None or slot.timeout_at is not None or slot.state == EMPTY
            if is_timed != (slot.number in self._timed):
                self._broken("slot %d is %s, and filed as if it were not so" % (slot.number, slot.state), slot.attempt)
            if slot.state == IDLE and slot.number not in self._idle:
                self._broken("slot %d is idle, and gets nothing" % slot.number, slot.number)
        if list(self._waiting) != [attempt for attempt, held in self._held.items() if held.slot is None]:
            self._broken("other attempts wait than %r" % list(self._waiting), None)


def _why(info):
    # type: (dict) -> str
    lines = info.get("lines") or []
    return "%s%s" % (info.get("exit"), ": " + lines[-1] if lines else "")
