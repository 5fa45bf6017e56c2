"""A whole cluster inside a ``for`` loop, with a seed: virtual clock, network, nodes, worker processes.

::

    World: heap of (time, call) -----------------------------------------------------+
      |                                                                              |
    Master  real scheduler.Scheduler   \\                                             |
      |     real frames.Channel       }  one Link per connection: two Pipes of      |
    Node    real frames.Channel       }  bytes: delayed, cut, stalled, lost, flipped|
      |     real agent.Agent           /                                             |
    Child   modelled after worker.py: blocks, flush, careful, Released ---------------+

Only the shells are modelled, what cluster.py, node.py and worker.py do around the brains: in
simulated_master.py, simulated_node.py and simulated_wire.py. They share the tables of messages and effects
(sessions.py, of which Cluster and the simulated master are made, hands.py, worker.py), so none can be forgotten. The journal is real too, on a disk that
fills up and a master that dies at any byte of it (simulated_disk.py), and so is the rule when an
outcome is acknowledged (``Sessions._acknowledge``). Each seed draws *which* faults exist at all and their
rates (simulated_faults.py); after a moment they stop, and everything must come to its end within
bounded virtual time. Safety is checked after every event.

Rules:

* Randomness comes from ``Random.random()`` alone: the rest of that class differs between 2.7 and 3.x.
* A seed's run is the same everywhere: the event log's hash says so.

``python -m tests.simulation --seeds 2000`` prints a report; ``--first N`` begins at seed N.
"""
from __future__ import absolute_import, division, print_function

import argparse
import gc
import heapq
import multiprocessing
import struct
import sys
import time
import zlib
from collections import deque, namedtuple
from random import Random

from minimalcluster import errors
from minimalcluster.wire import frames
from minimalcluster.brain import scheduler
from minimalcluster.master import cluster, journal
from minimalcluster.master.job import merged_spans
from tests import odd_messages, simulated_disk
from tests.simulated_faults import (
    ADOPTED, CONDITIONS, COPIES, GROWTH_STRIKES, HARMLESS, KILLS, LATE_CONDITIONS, LATE_STRIKES, LATEST_STRIKES, LOSSES, STRIKES, Faults,
)
from tests.simulated_jobs import Job
from tests.simulated_master import Master
from tests.simulated_node import Node

#: What a journal knows of a job: task -> (buffers, place in them), task -> (info, buffers), (attempt, first, count).
Known = namedtuple("Known", "done failed grants")

TAIL_LENGTH = 60
CALM_SECONDS = 60.0  # beyond the work itself; a node that is alone takes 60 s to give up, within the faults' time
QUIET_SECONDS = 1.5  # after the last job: revoked tasks are killed after 0.5 s, everything is acknowledged

#: Seeds that a process takes at a time.
PART = 50


class Failure(AssertionError):
    """A rule of the cluster was broken; the text says which, in which run, after what."""


class World(Faults):
    """One seed's run. ``run()`` returns when every job has ended and the cluster is quiet, or raises Failure."""

    def __init__(self, seed):
        # type: (int) -> None
        self.seed, self.now = seed, 0.0
        self.random = Random(seed).random
        self.heap = []  # type: list
        self.number = 0
        self.events = self.executed = 0
        self.hash = 0
        self.tail = deque(maxlen=TAIL_LENGTH)  # type: deque
        self.faults = {}  # type: dict # kind -> how often
        self.last_fault = None  # type: str | None
        self.nodes, self.jobs, self.links = {}, {}, []  # type: dict, dict, list
        self.by_id = {}  # type: dict # a master's number for a job -> Job
        self.granted = {}  # type: dict # attempt -> the master's number for its job
        self.disks = {}  # type: dict # path -> Disk
        self.crashes = 0  # of the master
        self.crashed_at = None  # type: float | None
        self.master_recovery = 0.0  # the longest time from a master's end to the next outcome
        self.wall_offset = 0.0
        self.alone = 0  # nodes that had no master for so long that they dropped everything
        self.calm_at = None  # type: float | None
        self.draw()

    # -- what exists in this run ----------------------------------------------------------------------

    def draw(self):
        # type: () -> None
        draw = self.random
        many = draw() * 0.7
        self.conditions = set(name for name in CONDITIONS if draw() < many)
        theme = draw()
        self.strikes = HARMLESS if theme < 0.25 else COPIES if theme < 0.5 else STRIKES
        self.makes_copies = self.strikes is COPIES
        self.delay_seconds = 10 ** (-4 + 2 * draw()) * (20 if "slow_link" in self.conditions else 1)
        if "slow_link" in self.conditions:
            self.count("slow_link")
        elif self.strikes is HARMLESS and draw() < 0.7:
            self.delay_seconds = 0.05  # so that most resets catch something on its way
        if self.strikes is STRIKES:
            rates = {name: 0.1 * 40 ** draw() for name in STRIKES if draw() < many}
        else:
            rates = {name: 0.5 * 8 ** draw() for name in self.strikes if draw() < 0.7}
            if "reset" in rates:
                rates["reset"] *= 3
        self.draw_late(rates)
        self.rates = rates
        self.flip_rate = 0.1 * draw() ** 3 if "bit_flip" in self.conditions else 0.0
        self.cut_rate = draw() if "cuts" in self.conditions else 0.0
        self.faults_end = 0.5 + 5 * draw() if draw() < 0.95 else 10 + 110 * draw()
        count = 1 + int((4 if draw() < 0.95 else 50) * draw())
        if self.makes_copies:
            count += 1
        slots = [1 + int(4 * draw() ** 2) for _ in range(count)]
        self.slots = sum(slots)
        self.master = Master(self, 1 + int(draw() * 1000))
        for each in slots:
            late = "late_nodes" in self.conditions
            self.at(draw() * (self.faults_end if late else 0.1), self.new_node, each)
        for number in range(1, 3 if draw() < 0.3 else 2):
            self.jobs[number] = job = Job(self, number)
            self.disks[job.path] = simulated_disk.Disk(job.path)
            self.at(draw() ** 2 * self.faults_end * 0.5, self.submit, job)
        self.unfinished = len(self.jobs)
        for name in sorted(rates):
            self.at(self.next_strike(rates[name]), self.strike, name, rates[name])
        self.at(self.faults_end, self.calm)
        self.limit = self.faults_end + 1000.0

    def draw_late(self, rates):
        # type: (dict) -> None
        """Drawn apart, so that what else a seed means stays as it was."""
        apart = Random(self.seed * 8 + 7).random
        self.late_conditions = set(name for name in LATE_CONDITIONS if apart() < 0.2)
        if "twins" in self.late_conditions:
            self.count("twins")
        kind = apart()
        if kind < 0.15:  # the master's end alone: with a journal nothing may run twice
            rates.clear()
            rates.update((name, 0.3 * 5 ** apart()) for name in KILLS + ("drain",))
            self.conditions -= {"bit_flip", "slow_link", "poison"}
        elif kind < 0.6:
            rates.update((name, 0.1 * 10 ** apart()) for name in LATE_STRIKES if apart() < 0.4)
        apart = Random(self.seed * 8 + 6).random
        rates.update((name, 0.3 * 10 ** apart()) for name in LATEST_STRIKES if apart() < 0.15)
        if "drop_shared" in rates:
            self.late_conditions.add("fetch")  # else there is nothing to drop
        self.cancels_journaled = apart() < 0.5
        self.short_of_memory = apart() < 0.3
        apart = Random(self.seed * 8 + 5).random
        self.disk_hangs = 0.2 * apart() if apart() < 0.3 else 0.0
        self.disk_until = 0.0  # it is busy
        self.disk_random = apart
        self.draw_thinness(Random(self.seed * 8 + 4).random)
        self.submits_at = 0.0  # when a late script gives its jobs to the last master
        self.scripts_are_late = False  # nodes of a killed master come back before it has a job again
        apart = Random(self.seed * 8 + 1).random
        rates.update((name, 0.1 * 10 ** apart()) for name in GROWTH_STRIKES if apart() < 0.1)
        self.tasks_print = apart() < 0.1
        self.lines = {}  # type: dict # node -> the number of its last line that a master has shown
        self.late_random = Random(self.seed * 8 + 2).random
        self.late_script_seconds = 90 * self.late_random() ** 2 if self.late_random() < 0.3 else 0.0
        self.readers_random = Random(self.seed * 8).random
        self.odd_random = Random(self.seed * 8 + 3).random
        self.odd_rate = 0.02 * self.odd_random() ** 2 if self.odd_random() < 0.15 else 0.0

    def draw_thinness(self, apart):
        # type: (object) -> None
        """How fast links are, how much of what they are given is only in a kernel's buffer, how large the pieces are."""
        self.thin = apart() < 0.35
        self.rate, self.buffer_seconds, self.piece_bytes = None, 0.0, frames.PIECE_BYTES
        if self.thin:
            self.count("thin_link")
            self.rate = 1000 * 30 ** apart()
            self.buffer_seconds = 0.1 * 200 ** apart()
            self.piece_bytes = int(self.rate * 0.1 * 5 ** apart())

    def thinness(self, node):
        # type: (Node) -> tuple
        """(bytes a second or None, bytes of a piece) of a link of this node."""
        if not self.thin or node.number % 4 == 0:
            return None, self.piece_bytes
        return self.rate * (1 + node.number % 3), self.piece_bytes  # type: ignore[operator]

    def check_silence(self, link, pipe, heard_at, seconds):
        # type: (Link, Pipe, float, float) -> None
        """Only a peer of which nothing has come is given up; and over a link that works something always comes."""
        if self.now < heard_at + seconds:
            self.fail("node %d's link is given up %.1f s after its last bytes" % (link.node.number, self.now - heard_at))
        if not link.quiet_for(seconds, pipe):
            self.fail("node %d's link is sound and silent for %.1f s" % (link.node.number, self.now - heard_at))

    def printed(self, node, line):
        # type: (int, int) -> None
        """Lines may be lost with a connection, but come in their order, and once."""
        if line <= self.lines.get(node, 0):
            self.fail("line %d of node %d is shown after line %d" % (line, node, self.lines[node]))
        self.lines[node] = line

    def delay(self):
        # type: () -> float
        return self.delay_seconds * (0.5 + self.random())

    def disk_seconds(self):
        # type: () -> float
        """Of a sync. Hanging disks (row 58) cost time, and no task runs twice for them."""
        seconds = 0.002 * self.disk_random()
        if self.calm_at is None and self.disk_random() < self.disk_hangs:
            self.count("disk_hangs")
            seconds += 15 * self.disk_random() ** 2
        self.disk_until = max(self.disk_until, self.now + seconds)
        return seconds

    def maybe_odd(self, message):
        # type: (tuple) -> tuple
        """What a member says that has the key, and may be out of its mind."""
        if not self.odd_rate or self.calm_at is not None or self.odd_random() >= self.odd_rate:
            return message
        changes = odd_messages.ODD.get(type(message))
        if not changes:
            return message
        self.count("odd")
        return odd_messages.made_odd(message, changes[int(self.odd_random() * len(changes))])

    def expected_odd(self, message, error):
        # type: (tuple, Exception) -> None
        self.note("odd", type(message).__name__)
        if not odd_messages.looks_odd(message):
            self.fail("a good message is refused: %s" % error)

    def is_not_odd(self, message):
        # type: (tuple) -> None
        if self.odd_rate and odd_messages.looks_odd(message):
            self.fail("an odd message is taken: %r" % (message,))

    def next_number(self):
        # type: () -> int
        self.number += 1
        return self.number

    def new_node(self, slots):
        # type: (int) -> None
        number = self.next_number()
        self.nodes[number] = node = Node(self, number, slots)
        if self.calm_at is None:
            node.unfit = "unfit" in self.conditions and self.random() < 0.3
            if node.unfit:
                self.count("unfit")
            node.fails_to_start = 0.5 * self.random() if "failing_start" in self.conditions else 0.0
            node.slow = 10.0 if "slow_node" in self.conditions and self.random() < 0.3 else 1.0

    def submit(self, job):
        # type: (Job) -> None
        job.submitted = True
        if not self.master.alive:
            return  # the next one gets it
        known = self.open_journal(job) if job.journaled else None
        job.id = (self.master._epoch << cluster.JOB_SHIFT) + job.number
        self.by_id[job.id] = self.master.jobs[job.id] = job
        self.master.call(scheduler.JobSubmitted(job.id, None if job.grows else job.total, job.options))
        if job.window is not None and not job.grows:
            self.master.tell_growth(job)
        if known is not None:
            done = sorted(set(known.done) | set(known.failed))
            spans = merged_spans((index, index + 1) for index in done)
            attempts = [(attempt, first, first + count) for attempt, first, count in known.grants]
            for _, first, end in attempts:
                job.adopt(first, end)
            self.master.call(scheduler.JobResumed(job.id, spans, attempts))
            job.runs.update((first, end - first) for first, end in spans)
            if known.failed and job.stop_on_error:
                self.master.call(scheduler.JobStopped(job.id))
        if job.grows:
            self.grow(job, self.master)
        self.read_soon(job, self.master)

    def read_soon(self, job, master):
        # type: (Job, Master) -> None
        """Its user takes what comes, unless it is busy with what came before."""
        if job.window is not None and not (job.reading or job.paused):
            job.reading = True
            self.at(self.now + job.read_seconds, self.read, job, master)

    def read(self, job, master):
        # type: (Job, Master) -> None
        if job.id not in master.jobs or not master.alive:
            return  # of another master, or over
        job.reading = False
        has_room = None if job.paused else job.take()
        if has_room is not None:
            self.read_soon(job, master)
        elif not job.paused:
            has_room = job.window.waits()
        if has_room:
            master.grew(job)

    def grow(self, job, master):
        # type: (Job, Master) -> None
        if job.finished or not master.alive:
            return
        job.known = min(job.total, job.known + 1 + int(self.random() * 200))
        closed = job.known == job.total
        if not closed:
            self.at(self.now + 0.2 * self.random(), self.grow, job, master)
        master.call(scheduler.JobGrew(job.id, job.known, closed, job.limit(master.scheduler.slots)))

    # -- journals, and a master that ends -------------------------------------------------------------

    def open_journal(self, job):
        # type: (Job) -> Known
        """As ListedJob: what is known counts, the rest is to be run."""
        opened = journal.Journal(job.path)
        if len(self.disks[job.path].data) != opened._good:
            self.fail("the journal of job %d is written on behind a torn record" % job.number)
        known = self.known(opened, job)
        self.agrees(job, known)
        opened.begin("target %d" % job.number, "arguments", job.total, "f", job.keys)
        for index in known.done:
            job.outcomes[index] = "value"
        for index, (info, _) in known.failed.items():
            job.outcomes[index] = "poison" if "poison" in info else "failure"
        job.errors = len(known.failed)
        job.journal = opened
        return known

    def agrees(self, job, known):
        # type: (Job, Known) -> None
        """A journal knows nothing that its user was not told."""
        for index, (buffers, offset) in known.done.items():
            data = buffers[1].tobytes()
            if struct.unpack(">q", data[8 * offset : 8 * offset + 8])[0] != job.value(index):
                self.fail("the journal has a wrong value for task %d of job %d" % (index, job.number))
            self.told_so(job, index, "value")
        for index, (info, _) in known.failed.items():
            self.told_so(job, index, "poison" if "poison" in info else "failure")

    def told_so(self, job, index, what):
        # type: (Job, int, str) -> None
        if job.outcomes[index] not in (None, what):  # None: the master ended between the record and the word
            self.fail("task %d of job %d is a %s in the journal, and was a %s" % (index, job.number, what, job.outcomes[index]))

    @staticmethod
    def known(opened, job):
        # type: (journal.Journal, Job) -> Known
        done, failed = {}, {}  # type: dict, dict
        for found in opened.outcomes("target %d" % job.number, "arguments", job.keys, job.total):
            if isinstance(found, journal.Done):
                for first, place, count in found.spans:
                    done.update((first + number, (found.buffers, place + number)) for number in range(count))
            else:
                failed.update((task, (found.info, found.buffers)) for task in found.tasks)
        return Known(done, failed, opened.grants)

    def check_journal(self, job, durable):
        # type: (Job, int) -> None
        """What the journal owes after an end of the master, or the job's: all that was durable. Then its file is harmed."""
        disk = self.disks[job.path]
        opened = journal.Journal(job.path, reading=True)
        records = list(opened._read_again())
        count, end, last_at = len(records), opened._good, records[-1].at if records else 0
        known = self.known(opened, job)
        self.agrees(job, known)
        lost = [index for index in job.delivered[:durable] if index not in known.done and index not in known.failed]
        if lost and not disk.stopped:
            self.fail("the journal of job %d has lost tasks %r, which a node has forgotten" % (job.number, lost[:9]))
        good = bytes(disk.data)
        try:
            del disk.data[int(self.random() * len(disk.data)) :]
            try:
                part = self.known(journal.Journal(job.path, reading=True), job)
                if not set(part.done).issubset(known.done) or not set(part.failed).issubset(known.failed):
                    self.fail("a part of the journal of job %d knows more than all of it" % job.number)
            except errors.JournalError:
                if len(disk.data) >= 40:  # its header
                    raise
            disk.data[:] = good
            at = int(self.random() * end)
            disk.data[at] ^= 1 << int(self.random() * 8)
            try:
                records = list(journal.Journal(job.path, reading=True)._read_again())
            except errors.JournalError:
                return
            # The last record may be taken for a torn one.
            if len(records) >= count or at < last_at:
                self.fail("a flipped bit in the journal of job %d was not noticed" % job.number)
        finally:
            disk.data[:] = good

    def master_down(self, silently):
        # type: (bool) -> None
        """Its process ends; its script is started again. Of a job without a journal nothing is left."""
        self.crashes += 1
        self.crashed_at = self.now
        self.master.died(silently)
        self.note("master", "down", self.master._epoch)
        for disk in self.disks.values():
            disk.dies_in = None
        for number in sorted(self.jobs):
            job = self.jobs[number]
            if job.submitted and not job.finished:
                self.forget(job, silently)
        pause = 5 * self.random() ** 3 if self.random() < 0.9 else 30 * self.random()
        self.at(self.now + 0.01 + pause, self.restart)

    def forget(self, job, silently):
        # type: (Job, bool) -> None
        disk = self.disks[job.path]
        if silently and disk.data:  # its page cache is lost, but for a part; or the file has grown and has no data
            kept = disk.synced + int(self.random() * (len(disk.data) - disk.synced + 1))
            zeros = self.random() < 0.3
            disk.data[kept:] = b"\0" * (len(disk.data) - kept) if zeros else b""
        if job.journaled and len(disk.data) >= 40:
            self.check_journal(job, job.durable)
        job.journal, job.durable = None, 0
        job.outcomes[:] = [None] * job.total
        del job.delivered[:]
        job.errors, job.stopping = 0, False
        job.read_again()
        job.known = 0 if job.grows else job.total
        if job.cancelled:  # its user wanted no more of it
            job.finished = True
            self.unfinished -= 1

    def restart(self):
        # type: () -> None
        self.scripts_are_late = self.late_script_seconds > 0.0
        self.master = Master(self, 1 + self.crashes + int(self.random() * 2**22))
        self.note("master", "up", self.master._epoch)
        if self.scripts_are_late:
            self.submits_at = self.now + self.late_random() * self.late_script_seconds
            self.limit = max(self.limit, self.submits_at + CALM_SECONDS)
            self.at(self.submits_at, self.submit_again, self.master)
        else:
            self.submit_again(self.master)

    def submit_again(self, master):
        # type: (Master) -> None
        for number in sorted(self.jobs) if master.alive else ():
            job = self.jobs[number]
            if job.submitted and not job.finished and job.id not in master.jobs:
                self.submit(job)

    def master_kill(self):
        # type: () -> None
        if self.master.alive:
            self.count("master_kill")
            self.master_down(False)

    def master_kill_at_byte(self):
        # type: () -> None
        job = self.pick([self.jobs[number] for number in sorted(self.jobs) if self.jobs[number].journal is not None])
        if job is not None and self.master.alive:
            self.count("master_kill_at_byte")
            self.disks[job.path].dies_in = 1 + int(300 * self.random())

    def master_power_cut(self):
        # type: () -> None
        if self.master.alive:
            self.count("master_power_cut")
            self.master_down(True)

    def disk_full(self):
        # type: () -> None
        job = self.pick([self.jobs[number] for number in sorted(self.jobs) if self.jobs[number].journal is not None])
        if job is not None:
            self.count("disk_full")
            self.disks[job.path].room = int(500 * self.random())

    def wall_clock(self):
        # type: () -> None
        self.count("wall_clock")
        self.wall_offset += 7200 * (self.random() - 0.5)

    # -- the calm ---------------------------------------------------------------------------------------

    def calm(self):
        # type: () -> None
        self.note("calm")
        self.calm_at = self.now
        self.flip_rate = 0.0
        for disk in self.disks.values():
            disk.room = disk.dies_in = None
        for _, node in sorted(self.nodes.items()):
            node.stalled_until = node.frozen_until = min(node.frozen_until, self.now)
            node.fails_to_start, node.slow = 0.0, 1.0
            node.timer.set(self.now)
            for child in node.children.values():
                child.slow = 1.0  # what runs there already goes on slowly
        for link in self.links:
            link.to_master.flow()
            link.to_node.flow()
        if not any(node.alive and not node.draining and not node.unfit for node in self.nodes.values()):
            self.new_node(1 + int(3 * self.random()))
        slots = sum(node.slots for node in self.nodes.values() if node.alive and not node.draining and not node.unfit)
        work = sum(
            sum(job.work()) * (1 + job.retries + 3 * len(job.poison)) / min(slots, job.window_size[0] if job.is_read else slots)
            + 10 * max(job.work() or [0]) + job.read_seconds * job.total
            for job in self.jobs.values()
        )
        self.limit = max(self.now, self.submits_at) + CALM_SECONDS + 3 * work
        if self.thin:
            most = sum(job.bytes() * (2 + job.retries + 3 * len(job.poison)) for job in self.jobs.values())
            self.limit += 3 * most / self.rate + 4 * self.buffer_seconds

    def quiet(self):
        # type: () -> None
        """All jobs have ended, and what follows from that has happened: nothing may be left anywhere."""
        left = self.master.scheduler.snapshot()
        if left["jobs"] or any(node["leases"] for node in left["nodes"]):
            self.fail("all jobs have ended, and the scheduler holds %r" % left)
        for number in sorted(self.nodes):
            node = self.nodes[number]
            if not (node.alive and node.joined and self.calm_at is not None):
                continue
            if node.link.sound() and self.now > max(node.joined_at, self.calm_at, self.disk_until) + QUIET_SECONDS:
                held = node.agent.snapshot()
                if held["held"] or held["reports"] or held["jobs"]:
                    self.fail("all jobs have ended, and node %d holds %r" % (number, held))
        for job in self.jobs.values():
            self.check_executions(job)

    def check_executions(self, job):
        # type: (Job) -> None
        losses = sum(count for name, count in self.faults.items() if name in LOSSES)
        for index, executions in enumerate(job.executions):
            if index in job.poison:
                most = job.attempts_max + (job.retries if job.may_be_late(self, index) else 0)
                if self.short_of_memory:  # deaths of two kinds
                    most += job.attempts_max - 1
            else:  # a poison task takes others with it: those before it in its chunk, or in its chunk's rest
                tries = 99 if job.may_be_late(self, index) else job.raises.get(index, 0)
                most = 1 + min(job.retries, tries) + 2 * len(job.poison)
            if job.idempotent:
                most += 1 + job.retries
            if self.crashes and not (job.journaled and set(self.faults).issubset(ADOPTED) and not self.alone):
                most *= 1 + self.crashes
            elif index in job.raises:
                most += self.crashes * job.retries  # the next master does not know how often it has raised
            if executions > most + 2 * losses:
                self.fail("task %d of job %d ran %d times, with %d losses" % (index, job.number, executions, losses))

    # -- the loop -----------------------------------------------------------------------------------------

    def at(self, moment, call, *arguments):
        # type: (float, object, *object) -> None
        self.events += 1
        heapq.heappush(self.heap, (moment, self.events, call, arguments))

    def run(self):
        # type: () -> None
        wall = time.time
        if "wall_clock" in self.rates:
            time.time = lambda: 1e9 + self.now + self.wall_offset
        try:
            with simulated_disk.installed(self):
                self.loop()
        except Failure:
            raise
        except Exception as error:
            self.fail("%s: %s" % (type(error).__name__, error))
        finally:
            time.time = wall

    def loop(self):
        # type: () -> None
        heap = self.heap
        ended_at = None  # type: float | None
        while ended_at is None or heap[0][0] < ended_at + 2 * QUIET_SECONDS + 20 * self.delay_seconds:
            self.now, _, call, arguments = heapq.heappop(heap)
            try:
                call(*arguments)  # type: ignore[operator]
            except simulated_disk.MasterDied:
                self.master_down(False)
            if ended_at is not None:
                if self.thin and any(link.busy() for link in self.links) and self.now < self.limit:
                    ended_at = self.now
            else:
                if not self.unfinished:
                    ended_at = self.now
                elif self.now > self.limit:
                    left = [(job.number, job.outcomes.count(None)) for job in self.jobs.values() if not job.finished]
                    self.fail(
                        "no end %.0f s after the calm: (job, tasks without outcome) %r, %r"
                        % (self.now - self.faults_end, left, self.master.scheduler.snapshot())
                    )
        self.recovery = max(0.0, ended_at - self.calm_at) if self.calm_at is not None else 0.0
        self.quiet()

    def count(self, fault):
        # type: (str) -> None
        self.note("fault", fault)
        self.faults[fault] = self.faults.get(fault, 0) + 1
        self.last_fault = fault

    def note(self, *words):
        # type: (*object) -> None
        line = "%.6f %r" % (self.now, words)
        self.tail.append(line)
        self.hash = zlib.crc32(line.encode("ascii", "replace"), self.hash)

    def fail(self, what):
        # type: (str) -> None
        raise Failure(
            "seed %d, event log %08x: at %.6f s %s\nafter:\n  %s"
            % (self.seed, self.hash & 0xFFFFFFFF, self.now, what, "\n  ".join(self.tail))
        )


class Report(object):
    """What many runs amount to; the order of the seeds does not matter."""

    def __init__(self):
        # type: () -> None
        self.seeds = self.events = self.executed = self.tasks = self.crashes = 0
        self.seconds = 0.0
        self.hash = 0
        self.faults, self.recovery = {}, {}  # type: dict, dict # by kind of fault; recovery: (seconds, seed)
        self.failures = []  # type: list # (seed, text)

    def run(self, seed):
        # type: (int) -> None
        """Raises Failure when it breaks a rule."""
        world = World(seed)
        world.run()
        self.seeds += 1
        self.events += world.events
        self.seconds += world.now
        self.executed += world.executed
        self.crashes += world.crashes
        self.tasks += sum(len(job.outcomes) - job.outcomes.count(None) for job in world.jobs.values())
        self.hash = (self.hash + zlib.crc32(b"%d %08x" % (seed, world.hash & 0xFFFFFFFF))) & 0xFFFFFFFF
        for name, count in world.faults.items():
            self.faults[name] = self.faults.get(name, 0) + count
        self._recovered(world.last_fault or "none", world.recovery, seed)
        if world.crashes:
            self._recovered("master's end, to the next outcome", world.master_recovery, seed)

    def _recovered(self, fault, seconds, seed):
        # type: (str, float, int) -> None
        self.recovery[fault] = max(self.recovery.get(fault, (0.0, seed)), (seconds, seed))

    def add(self, other):
        # type: (Report) -> None
        for name in ("seeds", "events", "executed", "tasks", "crashes", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.hash = (self.hash + other.hash) & 0xFFFFFFFF
        for name, count in other.faults.items():
            self.faults[name] = self.faults.get(name, 0) + count
        for fault, (seconds, seed) in other.recovery.items():
            self._recovered(fault, seconds, seed)
        self.failures += other.failures

    def lines(self):
        # type: () -> list
        wasted = self.executed - self.tasks
        return [
            "%d seeds, %d events, %.2f virtual hours, event logs %08x"
            % (self.seeds, self.events, self.seconds / 3600, self.hash),
            "%d tasks with outcomes, %d executions, %d of them wasted (%.1f %%), %d ends of the master"
            % (self.tasks, self.executed, wasted, 100.0 * wasted / max(1, self.executed), self.crashes),
            "faults: " + ", ".join("%s %d" % (name, self.faults[name]) for name in sorted(self.faults)),
            "worst recovery after the calm, by the last fault: "
            + ", ".join("%s %.1f s (seed %d)" % ((name,) + self.recovery[name]) for name in sorted(self.recovery)),
        ]


def run_seeds(seeds):
    # type: (object) -> Report
    """Run each seed; raises Failure at the first that breaks a rule."""
    report = Report()
    before = gc.get_threshold()
    gc.set_threshold(50000)  # a world is one large cycle; looking for it often costs a tenth of the time
    try:
        for seed in seeds:  # type: ignore[attr-defined]
            report.run(seed)
    finally:
        gc.set_threshold(*before)
    return report


def try_seeds(seeds):
    # type: (object) -> Report
    """Run each seed; those that break a rule are in the report's ``failures``."""
    report = Report()
    for seed in seeds:  # type: ignore[attr-defined]
        try:
            report.run(seed)
        except Failure as failure:
            report.failures.append((seed, str(failure)))
    return report


def main():
    # type: () -> int
    parser = argparse.ArgumentParser(description="Simulate clusters with faults, one for each seed.")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes (default: %(default)s)")
    parser.add_argument("--keep-going", action="store_true", help="list every failing seed instead of stopping at the first")
    parser.add_argument("--record", metavar="FILE", help="append failing seeds to this file, which the tests replay")
    told = parser.parse_args()
    started_at, report = time.time(), Report()
    first, end = told.first, told.first + told.seeds
    parts = [list(range(at, min(at + PART, end))) for at in range(first, end, PART)]
    pool = multiprocessing.Pool(told.jobs) if told.jobs > 1 and len(parts) > 1 else None
    try:
        for part in pool.imap_unordered(try_seeds, parts) if pool else map(try_seeds, parts):
            report.add(part)
            for seed, text in part.failures:
                print(text.split("\n")[0][:300] if told.keep_going else text)
                sys.stdout.flush()
                if told.record:
                    with open(told.record, "a") as file:
                        file.write("%d  # %s\n" % (seed, text.split("\n")[0].split(" s ", 1)[-1][:90]))
            if part.failures and not told.keep_going:
                return 1
    finally:
        if pool:
            pool.terminate()
    print("\n".join(report.lines()))
    print(
        "%.1f s on Python %d.%d, %d seeds failed"
        % ((time.time() - started_at,) + sys.version_info[:2] + (len(report.failures),))
    )
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
