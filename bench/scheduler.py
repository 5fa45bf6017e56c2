"""What the master's brain costs alone: no socket, no process, one event and one pass at a time.

    python3 bench/scheduler.py [LARGEST]

CPU seconds of this process, so that a busy machine disturbs little. Each line is one cost for ever more nodes, jobs or
tasks, up to LARGEST (1,000). A cost that depends on what has changed, not on what there is, stays the same along its
line; one of a whole job or of a survey grows as what it is about.
"""

import os
import random
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from minimalcluster.brain import leases, scheduler as s  # noqa: E402

TRIES = 3
CYCLES = 200


def cluster(nodes, slots=8):
    brain = s.Scheduler(1)
    for number in range(nodes):
        brain.handle(s.NodeJoined(number, number + 1, slots, "n%d" % number, []), 100.0)
    return brain


def grants(effects):
    return [effect for effect in effects if type(effect) is s.Grant]


def done(brain, grant, now, seconds):
    event = s.TasksDone(grant.node, grant.node + 1, grant.attempt, grant.first, grant.count, seconds, [b"x"])
    brain.handle(event, now)


def a_pass(brain, now):
    effects = brain.handle(s.TimePassed(), now)
    brain.deadline()
    return effects


def chunks(nodes, batch):
    """Seconds for one chunk of a job whose tasks are of one size: its result, and the next one handed out."""
    brain = cluster(nodes)
    brain.handle(s.JobSubmitted(1, 10**9, leases.DEFAULTS._replace(chunksize=10)), 100.0)
    queue = grants(a_pass(brain, 100.0))
    for _ in range(nodes):  # each is measured, and has its prefetch
        done(brain, queue.pop(0), 100.0, 0.01)
    queue += grants(a_pass(brain, 100.0))
    count = 0
    begin = time.process_time()
    while count < CYCLES:
        count += batch
        for grant in queue[:batch]:
            done(brain, grant, 100.0, 0.01)
        queue = queue[batch:] + grants(a_pass(brain, 100.0))
    return (time.process_time() - begin) / count


def heartbeats(nodes, jobs):
    """Seconds for one sign of life in a cluster with so many open jobs and nothing to do."""
    brain = cluster(nodes)
    for number in range(jobs):
        brain.handle(s.JobSubmitted(number, None, leases.DEFAULTS), 100.0)
    a_pass(brain, 100.0)
    begin = time.process_time()
    for count in range(CYCLES):
        brain.handle(s.NodeHeard(count % nodes, count % nodes + 1), 101.0)
        a_pass(brain, 101.0)
    return (time.process_time() - begin) / CYCLES


def copies(nodes):
    """Seconds for the pass that looks for second copies, where half of the slots are idle and a tenth was measured."""
    brain = cluster(nodes, 2)
    brain.handle(s.JobSubmitted(1, nodes, leases.DEFAULTS._replace(idempotent=True)), 100.0)
    for grant in grants(a_pass(brain, 100.0))[: nodes // 10 + 1]:
        done(brain, grant, 101.0, 30.0)
    begin = time.process_time()
    a_pass(brain, 102.0)
    return time.process_time() - begin


def resumed(gaps):
    """Seconds to take up a job of which every second task is done, told in any order, half of the others under way."""
    brain = cluster(1)
    brain.handle(s.JobSubmitted(1, 2 * gaps, leases.DEFAULTS), 100.0)
    spans = [(task, task + 1) for task in range(0, 2 * gaps, 2)]
    random.Random(1).shuffle(spans)
    attempts = [(number, first + 1, first + 2) for number, (first, _) in enumerate(spans[::2])]
    begin = time.process_time()
    brain.handle(s.JobResumed(1, spans, attempts), 100.0)
    return time.process_time() - begin


def cancelled(tasks):
    """Seconds to cancel that many queued tasks, in any order."""
    brain = cluster(1)
    brain.handle(s.JobSubmitted(1, tasks, leases.DEFAULTS), 100.0)
    order = list(range(tasks))
    random.Random(1).shuffle(order)
    begin = time.process_time()
    for task in order:
        brain.handle(s.TaskCancelled(1, task), 100.0)
    return time.process_time() - begin


def status(count):
    """Seconds for the status of so many jobs on so many nodes when nothing moves."""
    brain = cluster(count)
    for number in range(count):
        brain.handle(s.JobSubmitted(number, 10 * count, leases.DEFAULTS), 100.0)
    a_pass(brain, 100.0)
    begin = time.process_time()
    brain.status(104.0)
    return time.process_time() - begin


def line(what, sizes, unit, scale, cost):
    best = [min(cost(size) for _ in range(TRIES)) * scale for size in sizes]
    print("%-48s %s" % ("%s, %s" % (what, unit), "  ".join("%7d: %8.2f" % pair for pair in zip(sizes, best))))
    sys.stdout.flush()


def main():
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    sizes = [size for size in (1, 10, 100, 1000, 10000) if size <= largest]
    line("a chunk, one a pass, by nodes", sizes, "us", 1e6, lambda nodes: chunks(nodes, 1))
    line("a chunk, eight a pass, by nodes", sizes, "us", 1e6, lambda nodes: chunks(nodes, 8))
    line("a heartbeat, by nodes", sizes, "us", 1e6, lambda nodes: heartbeats(nodes, 1))
    line("a heartbeat, ten nodes, by open jobs", sizes + [10 * largest], "us", 1e6, lambda jobs: heartbeats(10, jobs))
    line("a pass with second copies, by nodes", sizes, "ms", 1e3, copies)
    line("a journal with gaps, by gaps", [50 * size for size in sizes], "ms", 1e3, resumed)
    line("cancelled in any order, by tasks", [30 * size for size in sizes], "ms", 1e3, cancelled)
    line("status(), by jobs and nodes", sizes, "ms", 1e3, status)


if __name__ == "__main__":
    main()
