"""What strikes a simulated cluster at random moments, and what each kind of harm may cost."""
from __future__ import absolute_import, division, print_function

import math

from minimalcluster.wire import protocol
from minimalcluster.brain import agent, scheduler

INTERRUPT_SECONDS = 1.5  # reader.py

#: Faults that strike at random moments, each by the World's method of that name.
STRIKES = (
    "reset", "away", "silence", "stall", "stall_one_way", "freeze", "crash", "power_cut", "child_crash", "slow_child",
    "duplicate_connection", "drain", "all_gone", "cancel", "stale_replay",
)  # fmt: skip
#: More of them, drawn apart. The master's: killed at once, at a byte of a journal, or with its machine.
LATE_STRIKES = (
    "cancel_task", "interrupt", "master_kill", "master_kill_at_byte", "master_power_cut", "disk_full", "wall_clock",
)  # fmt: skip
#: The newest, drawn apart from those: nobody reads the results; a shared object is dropped while tasks may want it.
LATEST_STRIKES = ("pause", "drop_shared")
#: Drawn apart from all those: a node has more worker processes from then on, and joins again to say so.
GROWTH_STRIKES = ("more_slots",)
#: Faults that are a property of the run.
CONDITIONS = ("bit_flip", "cuts", "slow_link", "poison", "raises", "unfit", "failing_start", "late_nodes", "slow_node")
#: More of them, drawn apart: a property of a job, but for twins (nodes of one name).
LATE_CONDITIONS = ("hang", "fetch", "twins")
#: The newest: links whose bandwidth is small for what some arguments, results and definitions have.
LATEST_CONDITIONS = ("thin_link",)
#: What makes the cluster run a task again. A reset does not: the node is back in time, with what it holds.
LOSSES = frozenset(STRIKES) - {"reset", "slow_child", "drain", "cancel", "stale_replay"} | {
    "bit_flip", "slow_link", "thin_link", "cancel_task", "master_power_cut", "disk_full", "odd"
}  # fmt: skip
#: Faults that cost nothing: with these alone every task runs once.
HARMLESS = tuple(name for name in STRIKES if name not in LOSSES)
#: These cost nothing either: with a journal, what runs when the master is killed is adopted by the next one.
KILLS = ("master_kill", "master_kill_at_byte")
ADOPTED = frozenset(KILLS + LATEST_STRIKES) | {
    "drain", "raises", "cuts", "fetch", "twins", "wall_clock", "cancel", "interrupt", "disk_hangs"
}  # fmt: skip
#: Faults that make two nodes hold the same tasks.
COPIES = ("away", "child_crash", "drain")

class Faults(object):
    """Part of World: each fault is a method of its name, and counts itself if there was something to strike."""

    def next_strike(self, rate):
        # type: (float) -> float
        return self.now - math.log(1.0 - self.random()) / rate

    def strike(self, name, rate):
        # type: (str, float) -> None
        if self.calm_at is None:
            try:
                getattr(self, name)()
            finally:
                self.at(self.next_strike(rate), self.strike, name, rate)

    def pick(self, things):
        # type: (list) -> object
        return things[int(self.random() * len(things))] if things else None

    def pick_node(self):
        # type: () -> Node | None
        return self.pick([self.nodes[number] for number in sorted(self.nodes) if self.nodes[number].alive])  # type: ignore[return-value]

    def reset(self):
        # type: () -> None
        """Of a connection that works: two in a row would be longer than the master waits."""
        link = self.pick([link for link in self.links if link.node.joined])
        if link is not None:
            self.count("reset")
            if self.thin:  # what it has to say first may come too late
                self.count("thin_link")
            link.to_master.cut()
            link.to_node.cut()

    def more_slots(self):
        # type: () -> None
        link = self.pick([link for link in self.links if link.node.joined])
        if link is not None:
            self.count("more_slots")
            link.node.slots += 1
            link.node.tell(agent.SlotsAdded(1))
            link.to_master.cut()
            link.to_node.cut()

    def away(self):
        # type: () -> None
        """A reset, and no way back until the node's tasks run elsewhere."""
        link = self.pick(self.links)
        if link is not None:
            self.count("away")
            link.node.stalled_until = max(link.node.stalled_until, self.now + 0.9 + 3 * self.random())
            link.to_master.cut()
            link.to_node.cut()

    def silence(self):
        # type: () -> None
        """Nothing passes any more, and nobody is told."""
        link = self.pick(self.links)
        if link is not None:
            self.count("silence")
            link.to_master.lost = link.to_node.lost = True

    def stall(self):
        # type: () -> None
        self.stall_node("stall", True, True)

    def stall_one_way(self):
        # type: () -> None
        up = self.random() < 0.5
        self.stall_node("stall_one_way", up, not up)

    def stall_node(self, name, up, down):
        # type: (str, bool, bool) -> None
        node = self.pick_node()
        if node is not None:
            self.count(name)
            until = self.now + 10 ** (-1 + 2.9 * self.random())
            node.stalled_until = max(node.stalled_until, until)
            if node.link is not None:
                for pipe in [node.link.to_master] * up + [node.link.to_node] * down:
                    pipe.stalled_until = max(pipe.stalled_until, until)

    def freeze(self):
        # type: () -> None
        node = self.pick_node()
        if node is not None:
            self.count("freeze")
            node.frozen_until = self.now + 10 ** (-1 + 2.5 * self.random())
            node.freezes_children = self.random() < 0.5

    def crash(self):
        # type: () -> None
        node = self.pick_node()
        if node is not None:
            self.count("crash")
            self.lose(node, silently=False)

    def power_cut(self):
        # type: () -> None
        node = self.pick_node()
        if node is not None:
            self.count("power_cut")
            self.lose(node, silently=True)

    def lose(self, node, silently):
        # type: (Node, bool) -> None
        if silently and node.link is not None:
            node.link.to_master.lost = node.link.to_node.lost = True
        node.end()
        if self.random() < 0.8:
            self.at(self.now + 0.2 + 5 * self.random(), self.new_node, node.slots)

    def all_gone(self):
        # type: () -> None
        self.count("all_gone")
        for number in sorted(self.nodes):
            if self.nodes[number].alive:
                self.lose(self.nodes[number], silently=self.random() < 0.3)

    def pick_child(self):
        # type: () -> Child | None
        node = self.pick_node()
        return self.pick([node.children[slot] for slot in sorted(node.children)]) if node is not None else None  # type: ignore[return-value]

    def child_crash(self):
        # type: () -> None
        child = self.pick_child()
        if child is not None:
            self.count("child_crash")
            child.die("killed by signal 11 (SIGSEGV)")

    def slow_child(self):
        # type: () -> None
        child = self.pick_child()
        if child is not None:
            self.count("slow_child")
            child.slow = 10.0

    def duplicate_connection(self):
        # type: () -> None
        """The node gives its connection up and dials again; the master hears of the end late or never."""
        node = self.pick_node()
        if node is not None and node.link is not None:
            self.count("duplicate_connection")
            pipe = node.link.to_master
            if self.random() < 0.5:
                pipe.lost = True
            else:
                pipe.stalled_until = max(pipe.stalled_until, self.now + 3 * self.random())
            node.tell((node.link, None))

    def drain(self):
        # type: () -> None
        node = self.pick_node()
        if node is not None:
            self.count("drain")
            node.draining = True
            node.tell(agent.DrainAsked())
            self.at(self.now + 5 * self.random(), self.new_node, node.slots)

    def cancel(self):
        # type: () -> None
        job = self.pick_job()
        if job is not None and self.random() < 0.2:
            self.count("cancel")
            self.end_job(job, self.master)

    def end_job(self, job, master):
        # type: (Job, Master) -> None
        if master.alive and not job.finished:
            job.cancelled = True
            master.call(scheduler.JobCancelled(job.id))
            if not job.finished:
                self.fail("job %d goes on after it was cancelled" % job.number)

    def pick_job(self):
        # type: () -> Job | None
        """One that the master has."""
        jobs = [self.jobs[number] for number in sorted(self.jobs)]
        return self.pick([job for job in jobs if self.master.jobs.get(job.id) is job and self.master.alive])  # type: ignore[return-value]

    def interrupt(self):
        # type: () -> None
        """Ctrl-C, or a deadline: what runs may still end, for a while."""
        job = self.pick_job()
        if job is not None and self.random() < 0.4:
            self.count("interrupt")
            job.stopping = True
            self.master.call(scheduler.JobStopped(job.id))
            seconds = INTERRUPT_SECONDS if self.random() < 0.5 else 0.0
            self.at(self.now + seconds, self.end_job, job, self.master)

    def cancel_task(self):
        # type: () -> None
        """Nobody wants this task's outcome any more."""
        job = self.pick_job()
        if job is None or job.window is not None or job.stopping or job.stop_on_error and job.errors or not job.known:
            return
        if job.journaled and not self.cancels_journaled:
            return
        index = int(self.random() * job.known)
        if job.outcomes[index] is None:
            self.count("cancel_task")
            job.outcomes[index] = "cancelled"
            self.master.call(scheduler.TaskCancelled(job.id, index))

    def pause(self):
        # type: () -> None
        """Its user takes no results for a while."""
        job = self.pick_job()
        if job is not None and job.window is not None and not job.paused:
            self.count("pause")
            job.paused = True
            self.at(self.now + 4 * self.random() ** 3, self.go_on, job, self.master)

    def go_on(self, job, master):
        # type: (Job, Master) -> None
        if job.id in master.jobs and master.alive:
            job.paused = False
            self.read_soon(job, master)

    def drop_shared(self):
        # type: () -> None
        """The master shares it again at once, under the same name: who still has it, or has asked for it, is told to drop it."""
        self.count("drop_shared")
        name = "s%d" % int(self.random() * 3)
        if self.master.alive:
            for session in list(self.master.sessions.values()):
                self.master.send(session, protocol.Drop({"name": name}))
                session.link.flush_master()

    def stale_replay(self):
        # type: () -> None
        self.count("stale_replay")
        self.master.replay()
