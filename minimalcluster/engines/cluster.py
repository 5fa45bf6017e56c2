"""An engine as the place where a master's own node works: the agent of any node, with hands that submit to the engine.

::

    MasterNode, ClusterExecutor, Pool
       | jobs
    Cluster without a port; the same scheduler and jobs
       | Grant, Revoke, ...      ^ Done, Failed, Died, ...
    EngineNode: the same agent, whose slots are places in the engine's queue
       | courier.py: submit(run_chunk, ...)      ^ those reports, and what the worker process lacked
    the engine ----> its worker processes: worker.py

Rules:

* The engine carries opaque bytes: a chunk's arguments there, its reports back.
* A chunk that lacks something (a long definition, a module, a shared object) comes back and says so. It is sent again,
  from the first task without a report on, with that thing. So nothing is sent twice to a process that has it, whatever
  process the engine chooses.
* A place in the queue is never lost with a worker process: it is empty, and at once ready for the next chunk.
"""

import os
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Set

from .. import errors
from ..brain import agent
from ..compat import PICKLE_PROTOCOL_MAX, monotonic
from ..logs import log
from ..master.job import Job
from ..master.workplace import Workplace
from ..node.hands import Hands
from ..node.node import describe
from ..node.worker import READ, SERVED
from ..payload import values
from ..wire import checks, protocol
from ..wire.loop import Loop
from .courier import ATTACH_BYTES_MAX, Backend, Courier
from .flights import Flight, Flights
from .worker import Need, plain

if TYPE_CHECKING:
    from ..node.hands import Drop, End, Send

#: The scheduler gives a node up to twice as many chunks as it has workers. All of them stand in the engine's queue, so
#: that the next chunk is there when a worker is free.
PLACES_PER_WORKER = 2
#: How often an engine whose workers come and go is asked for their number while there is work.
COUNT_SECONDS = 2.0
#: How long the end of a master waits for the engine to be closed.
CLOSE_SECONDS = 5.0
#: What a definition may wish for that an engine cannot do, and what the user calls it.
WISHES = {"timeout": "timeout", "leave_after": "max_tasks_per_child"}


class OnEngine(Workplace):
    """The master's own node works on an engine. Its user can only add workers to the engine."""

    runs_scripts = False

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def slots_at_start(self) -> int:
        """Raises what counting the engine's workers raises."""
        return max(1, self._backend.workers())

    def check_job(self, job: Job) -> None:
        info, _ = job.definition()
        for wish, name in WISHES.items():
            if info.get(wish) is not None:
                raise errors.UsageError(
                    "%s=%s is not possible on %s: its worker processes are not ours to end; leave it out, "
                    "or use nodes of this package" % (name, info[wish], self._backend.name)
                )
        if job.options.idempotent:
            raise errors.UsageError(
                "idempotent=True is not possible on %s: where a task runs is its choice, so a second copy may wait "
                "behind the first; leave it out, or use nodes of this package" % self._backend.name
            )

    def check_join(self) -> None:
        name = self._backend.name
        raise errors.StateError("this master works on %s: add workers there, they are used at once" % name)

    def check_leave(self) -> None:
        raise errors.StateError("this master works on %s: no worker here to stop" % self._backend.name)

    def node(self, loop: Loop, slots: int, send: "Send", drop: "Drop", end: "End") -> "EngineNode":
        return EngineNode(self._backend, loop, slots, send, drop, end)


class EngineNode(Hands):
    """The workers of an engine, as one node. workers: how many they are now. The others: as for Hands."""

    def __init__(
        self, backend: Backend, loop: Loop, workers: int, send: "Send", drop: "Drop", end: "End"
    ) -> None:
        token = os.urandom(16).hex()
        about = dict(describe(), hostname=backend.name, id=token)
        super().__init__(loop, PLACES_PER_WORKER * workers, about, send, drop, end)
        self._backend, self._workers, self._places = backend, workers, PLACES_PER_WORKER * workers
        self._courier = Courier(backend, token, loop.call)
        self._flights: Dict[int, Flight] = {}  # slot -> what it runs
        self._lines = Flights()
        self._definitions: Dict[int, protocol.DefineJob] = {}  # those that the courier has
        self._knowing: Dict[int, Set[int]] = {}  # job -> slots that were given its definition
        self._requests = 0  # how often the master was asked for something
        self._count_at = 0.0
        self._said_empty = False
        self._finished: Optional[agent.Finished] = None  # until ``end`` has been called
        self._close_at = 0.0  # from then on the engine's closing is not waited for any more
        names = {**READ, **SERVED}
        self._told: Dict[type, Callable[[int, Any], None]] = {kind: getattr(self, names[kind]) for kind in names}

    def step(self, now: float) -> None:
        super().step(now)
        flight = self._lines.next()
        while flight is not None:
            self._fly(flight)
            flight = self._lines.next()
        if self._counts() and now >= self._count_at:
            self._count_at = now + COUNT_SECONDS
            self._courier.put(self._courier.count, self._counted)
        if self._finished is not None and now >= self._close_at:
            self._closed()

    def deadline(self) -> Optional[float]:
        moments = [super().deadline(), self._count_at if self._counts() else None]
        if self._finished is not None:
            moments.append(self._close_at)
        return min((moment for moment in moments if moment is not None), default=None)

    # -- effects ----------------------------------------------------------------------------------

    def to_master(self, effect: agent.ToMaster) -> None:
        message = effect.message
        if isinstance(message, protocol.Join):
            message = protocol.Join(dict(message.info, slots=self._workers))  # places are nothing that works
        self._send(message)

    def start_child(self, effect: agent.StartChild) -> None:
        self.tell(agent.ChildReady(effect.slot))

    def to_child(self, effect: agent.ToChild) -> None:
        self._told[type(effect.message)](effect.slot, effect.message)

    def kill_child(self, effect: agent.KillChild) -> None:
        flight = self._flights.get(effect.slot)
        if flight is not None:
            self._give_up(flight)
        self._emptied(effect.slot, {})

    def keep(self, effect: agent.Keep) -> None:
        self.tell(agent.Kept(effect.name, effect.info))  # the master has it in a file

    def discard(self, effect: agent.Discard) -> None:
        self._courier.put(self._courier.drop, effect.name)

    def look_behind(self, effect: agent.LookBehind) -> None:
        """What tasks leave behind is the engine's to end."""

    def finished(self, effect: agent.Finished) -> None:
        self._finished, self._close_at = effect, monotonic() + CLOSE_SECONDS
        self._courier.put(self._courier.end, self._closed)

    def _closed(self) -> None:
        if self._finished is not None:
            reason, refused = self._finished
            self._finished = None
            self._end(reason, refused)

    # -- what the agent says to a slot ------------------------------------------------------------

    def _define(self, slot: int, message: protocol.DefineJob) -> None:
        self._knowing.setdefault(message.job, set()).add(slot)
        if self._definitions.get(message.job) is not message:
            self._definitions[message.job] = message
            self._courier.put(self._courier.learn, ("definition", message.job), message.info, plain(message.payload))

    def _forget(self, slot: int, message: protocol.ForgetJob) -> None:
        self._lines.forget(message.job)
        self._is_forgotten(message.job, slot)

    def _is_forgotten(self, job: int, slot: int) -> None:
        """When no slot knows the job any more, the courier need not."""
        knowing = self._knowing.get(job, set())
        knowing.discard(slot)
        if not knowing:
            self._knowing.pop(job, None)
            self._definitions.pop(job, None)
            self._courier.put(self._courier.forget, ("definition", job))

    def _grant(self, slot: int, message: protocol.Grant) -> None:
        flight = self._flights[slot] = Flight(slot, message._replace(payload=plain(message.payload)))
        if sum(map(len, self._definitions[message.job].payload)) <= ATTACH_BYTES_MAX:
            flight.needs.append(("definition", message.job))
        self._lines.add(flight)

    def _give_back(self, slot: int, message: protocol.Revoke) -> None:
        flight = self._flights.get(slot)
        if flight is None or flight.grant.attempt != message.attempt:
            return
        if message.kill:
            self._give_up(flight)
            self._emptied(slot, {})
        elif self._lines.has_not_started(flight):
            self._release(flight)
        elif not self._lines.is_alone(flight):  # which would be no suspect any more elsewhere
            self._courier.put(self._courier.cancel, flight, False)

    def _drop_shared(self, slot: int, message: protocol.Drop) -> None:
        """``discard`` is called once for all slots."""

    def _fetched(self, slot: int, message: protocol.Fetched) -> None:
        flight = self._flights.get(slot)
        if flight is not None and flight.request == message.request:
            self._courier.put(self._courier.learn, flight.needs[-1], message.info, plain(message.payload))
            self._fly(flight)

    def _leave(self, slot: int, message: protocol.Farewell) -> None:
        self._emptied(slot, {})

    # -- to the engine ----------------------------------------------------------------------------

    def _fly(self, flight: Flight) -> None:
        flight.number += 1
        flight.request = None
        errand = flight, flight.number, flight.part(), list(flight.needs), self._landed
        self._courier.put(self._courier.submit, *errand)

    def _give_up(self, flight: Flight) -> None:
        """Nothing that comes of it counts any more."""
        self._remove(flight)
        self._courier.put(self._courier.cancel, flight, True)

    def _remove(self, flight: Flight) -> None:
        self._lines.remove(flight)
        del self._flights[flight.slot]

    # -- from the engine --------------------------------------------------------------------------

    def _landed(self, flight: Flight, number: int, outcome: Any, error: Optional[BaseException]) -> None:
        """A call's end: outcome is what ``run_chunk`` returned, or None and the error is what happened instead."""
        if not self._lines.flies(flight) or number != flight.number:
            return  # it was given up meanwhile
        if error is None:
            self._take(flight, *outcome)
        elif isinstance(error, CancelledError):
            self._release(flight)
        elif not isinstance(error, self._backend.died):
            self._unfit(flight, error)
        elif self._lines.is_alone(flight) or self._backend.exact:
            self._died(flight, error)
        else:
            self._lines.suspect(flight)

    def _take(self, flight: Flight, reports: List[Any], lacking: Optional[Need]) -> None:
        try:
            for report in reports:
                checks.check(report, checks.CHILD)
                self._report(flight, report)
        except errors.ProtocolError as error:
            self._unfit(flight, error)
            return
        if reports and isinstance(reports[-1], protocol.Unfit):
            self._remove(flight)
        elif lacking is not None:
            self._bring(flight, tuple(lacking))
        elif flight.next < flight.end:
            self._fly(flight)
        else:
            self._remove(flight)

    def _report(self, flight: Flight, report: Any) -> None:
        self.tell(agent.ChildSaid(flight.slot, report))
        if isinstance(report, (protocol.Done, protocol.Failed)):
            flight.next = report.first + (report.count if isinstance(report, protocol.Done) else 1)

    def _bring(self, flight: Flight, need: Need) -> None:
        if need in flight.needs:
            self._unfit(flight, errors.InternalError("%s %s came with the chunk and was asked for again" % need))
            return
        flight.needs.append(need)
        if need[0] == "definition" or self._courier.knows(need):
            self._fly(flight)
            return
        self._requests += 1
        flight.request = self._requests
        info = {"what": need[0], "name": need[1], "pickle": PICKLE_PROTOCOL_MAX}
        self.tell(agent.ChildSaid(flight.slot, protocol.Fetch(flight.request, info)))

    def _release(self, flight: Flight) -> None:
        self._remove(flight)
        self.tell(agent.ChildSaid(flight.slot, protocol.Released(0, flight.grant.attempt, flight.next)))

    def _unfit(self, flight: Flight, error: BaseException) -> None:
        self._remove(flight)
        info, _ = values.encode_exception(error, 0)
        if "No module named 'minimalcluster'" in info["traceback"]:  # engines wrap it in errors of theirs
            info["text"] = "its workers need minimalcluster too: install it there, or send it along (docs/outgrow.md)"
        self.tell(agent.ChildSaid(flight.slot, protocol.Unfit(0, flight.grant.attempt, flight.next, info)))

    def _died(self, flight: Flight, error: BaseException) -> None:
        del self._flights[flight.slot]
        self._lines.blame(flight)
        exit_ = "%s says %s" % (self._backend.name, values.in_words(error))
        self._emptied(flight.slot, {"exit": exit_, "lines": []})

    def _emptied(self, slot: int, info: Dict[str, Any]) -> None:
        """To the agent a place whose call has died, or does not count any more, is a worker process that has ended."""
        for job in [job for job, slots in self._knowing.items() if slot in slots]:
            self._is_forgotten(job, slot)
        self.tell(agent.ChildExited(slot, info))

    # -- how many workers it has ------------------------------------------------------------------

    def _counts(self) -> bool:
        return self._backend.elastic and bool(self._flights)

    def _counted(self, workers: int) -> None:
        if self._finished is not None:
            return
        if not workers and self._flights and not self._said_empty:
            chunks = len(self._flights)
            log.warning("%s has no workers: %d chunks wait; they go on when one comes", self._backend.name, chunks)
        self._said_empty = not workers
        if max(1, workers) == self._workers:
            return
        self._workers = max(1, workers)
        log.info("%s has %d workers now", self._backend.name, workers)
        missing = PLACES_PER_WORKER * self._workers - self._places
        if missing > 0:
            self._places += missing
            self.tell(agent.SlotsAdded(missing))
        self._drop("its engine has another number of workers")  # it comes back with that number
