"""What the master's brain costs alone: no socket, no process, no thread.

    python3 bench/brain.py [LARGEST]

CPU seconds of this process, so that a busy machine disturbs little. Each line shows one cost for ever more nodes, jobs
or tasks, up to LARGEST (10,000) nodes. A cost that depends on what has changed, and not on what there is, stays the
same along its line; the cost of a whole job or of a survey grows as what it is about.
"""

import gc
import os
import random
import sys
import time
from collections import deque

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from minimalcluster.brain import ledger, scheduler as s  # noqa: E402

#: Of what takes long one try is enough: small costs are the ones that other programs disturb.
TRIES, LARGE = 3, 5000
CHUNKS = 4000
HEARTBEATS = 4000
PASSES = 5


def cluster(nodes, slots=8):
    brain = s.Scheduler(1)
    for number in range(nodes):
        brain.handle(s.NodeJoined(number, number + 1, slots, "n%d" % number, []), 100.0)
    return brain


def submit(brain, total, **options):
    number = len(brain.snapshot()["jobs"])
    brain.handle(s.JobSubmitted(number, total, ledger.DEFAULTS._replace(**options)), 100.0)


def grants(effects):
    return [effect for effect in effects if type(effect) is s.Grant]


def done(brain, grant, now, seconds):
    event = s.TasksDone(grant.node, grant.node + 1, grant.attempt, grant.first, grant.count, seconds, [b"x"])
    brain.handle(event, now)


def a_pass(brain, now):
    effects = brain.handle(s.TimePassed(), now)
    brain.deadline()
    return effects


def seconds_of(function, *arguments):
    """CPU seconds of this call. What was made before it is of no concern to the garbage collector meanwhile."""
    gc.collect()
    gc.freeze()
    begin = time.process_time()
    function(*arguments)
    spent = time.process_time() - begin
    gc.unfreeze()
    return spent


def chunks(nodes, batch):
    """Seconds for one chunk of a job whose tasks are of one size: its result, and the next one handed out."""
    brain = cluster(nodes)
    submit(brain, 10**9, chunksize=10)
    queue = deque(grants(a_pass(brain, 100.0)))
    for _ in range(nodes):  # each is measured, and has its prefetch
        done(brain, queue.popleft(), 100.0, 0.01)
    queue.extend(grants(a_pass(brain, 100.0)))

    def work():
        for _ in range(CHUNKS // batch):
            for _ in range(batch):
                done(brain, queue.popleft(), 100.0, 0.01)
            queue.extend(grants(a_pass(brain, 100.0)))

    return seconds_of(work) / CHUNKS


def jobs_of_one_task(jobs):
    """Seconds for one of so many jobs of a single task: submitted, handed out to ten nodes, done and finished."""
    brain = cluster(10)

    def work():
        for number in range(jobs):
            brain.handle(s.JobSubmitted(number, 1, ledger.DEFAULTS), 100.0)
        queue = deque(grants(a_pass(brain, 100.0)))
        while queue:
            for _ in range(min(8, len(queue))):
                done(brain, queue.popleft(), 100.0, 0.01)
            queue.extend(grants(a_pass(brain, 100.0)))

    return seconds_of(work) / jobs


def heartbeats(nodes, jobs):
    """Seconds for one sign of life in a cluster with so many open jobs and nothing to do."""
    brain = cluster(nodes)
    for number in range(jobs):
        brain.handle(s.JobSubmitted(number, None, ledger.DEFAULTS), 100.0)
    a_pass(brain, 100.0)

    def beat():
        for count in range(HEARTBEATS):
            brain.handle(s.NodeHeard(count % nodes, count % nodes + 1), 101.0)
            a_pass(brain, 101.0)

    return seconds_of(beat) / HEARTBEATS


def job_end(nodes):
    """Seconds for a chunk at the end of a job: nothing is queued, more and more nodes are idle, a copy may be due."""
    brain = cluster(nodes, 2)
    submit(brain, 2 * nodes, idempotent=True, chunksize=1)
    queue = grants(a_pass(brain, 100.0))
    few = max(1, min(len(queue) // 2, 2000))

    def work():
        for grant in queue[:few]:
            done(brain, grant, 101.0, 1.0)
            a_pass(brain, 101.0)

    return seconds_of(work) / few


def copies(nodes):
    """Seconds for the pass that looks for second copies, where half of the slots are idle and a tenth was measured."""
    brain = cluster(nodes, 2)
    submit(brain, nodes, idempotent=True)
    for grant in grants(a_pass(brain, 100.0))[: nodes // 10 + 1]:
        done(brain, grant, 101.0, 30.0)
    return seconds_of(a_pass, brain, 102.0)


def resumed(gaps):
    """Seconds to take up a job of which every second task is done, told in any order, half of the others under way."""
    brain = cluster(1)
    submit(brain, 2 * gaps)
    spans = [(task, task + 1) for task in range(0, 2 * gaps, 2)]
    random.Random(1).shuffle(spans)
    attempts = [(number, first + 1, first + 2) for number, (first, _) in enumerate(spans[::2])]
    return seconds_of(brain.handle, s.JobResumed(0, spans, attempts), 100.0)


def cancelled(tasks):
    """Seconds to cancel that many queued tasks, in any order."""
    brain = cluster(1)
    submit(brain, tasks)
    order = list(range(tasks))
    random.Random(1).shuffle(order)

    def cancel():
        for task in order:
            brain.handle(s.TaskCancelled(0, task), 100.0)

    return seconds_of(cancel)


def waiting(count):
    """Seconds for the pass after which each of so many jobs, on so many nodes, may have to say what it waits for."""
    brain = cluster(count, 1)
    for number in range(2 * count):
        brain.handle(s.JobSubmitted(number, 10, ledger.DEFAULTS), 100.0)
    a_pass(brain, 100.0)
    return seconds_of(a_pass, brain, 103.0)


def status(count):
    """Seconds for the status of so many jobs on so many nodes when nothing moves."""
    brain = cluster(count)
    for number in range(count):
        brain.handle(s.JobSubmitted(number, 10 * count, ledger.DEFAULTS), 100.0)
    a_pass(brain, 100.0)
    return seconds_of(brain.status, 104.0)


def line(what, sizes, unit, scale, cost):
    best = [min(cost(size) for _ in range(TRIES if size < LARGE else 1)) * scale for size in sizes]
    print("%-48s %s" % ("%s, %s" % (what, unit), "  ".join("%7d: %8.2f" % pair for pair in zip(sizes, best))))
    sys.stdout.flush()


def main():
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
    sizes = [size for size in (1, 10, 100, 1000, 10000) if size <= largest]
    line("a chunk, one a pass, by nodes", sizes, "us", 1e6, lambda nodes: chunks(nodes, 1))
    line("a chunk, eight a pass, by nodes", sizes, "us", 1e6, lambda nodes: chunks(nodes, 8))
    line("a heartbeat, by nodes", sizes, "us", 1e6, lambda nodes: heartbeats(nodes, 1))
    line("a heartbeat, ten nodes, by open jobs", sizes + [10 * largest], "us", 1e6, lambda jobs: heartbeats(10, jobs))
    line("a job of one task, ten nodes, by jobs", sizes + [10 * largest], "us", 1e6, jobs_of_one_task)
    line("a chunk at the end of a job, by nodes", sizes, "us", 1e6, job_end)
    line("a pass with second copies, by nodes", sizes, "ms", 1e3, copies)
    line("a journal with gaps, by gaps", [10 * size for size in sizes], "ms", 1e3, resumed)
    line("cancelled in any order, by tasks", [10 * size for size in sizes], "ms", 1e3, cancelled)
    line("a pass with jobs that wait, by jobs and nodes", sizes, "ms", 1e3, waiting)
    line("status(), by jobs and nodes", sizes, "ms", 1e3, status)


if __name__ == "__main__":
    main()
