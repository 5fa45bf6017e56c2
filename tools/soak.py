"""Run very many trivial tasks while nodes come and go, and see that nothing grows.

    python3 tools/soak.py                10,000,000 tasks
    TASKS=1000000 python3 tools/soak.py  fewer

Rounds of 100,000 tasks go through ``map`` and ``imap_unordered`` in turn. One node stays; during each round another one
joins, then it is killed or leaves tidily. Between rounds, when only the node that stays is there, memory, descriptors
and threads of the master's process and of that node are read (Linux: /proc). The first rounds warm up. The exit status
is 1 if a result is wrong or missing, or if the median of the last rounds is beyond that of the first by more than
LIMITS.
"""

import os
import signal
import statistics
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from minimalcluster import MasterNode  # noqa: E402 # the checkout's, not an installed one
from tests import support  # noqa: E402

ROUND_TASKS = 100000
#: Rounds that are not judged: caches fill, the allocator takes what it needs once.
WARM_UP_ROUNDS = 3
#: By how much the end may be beyond the beginning.
LIMITS = {"memory (MiB)": 8.0, "descriptors": 2.0, "threads": 1.0}


def double(x):
    return x * 2


def sample(pid):
    """Memory, descriptors and threads of a process."""
    fields = dict(line.split(":", 1) for line in support.read("/proc/%d/status" % pid).splitlines() if ":" in line)
    return {
        "memory (MiB)": int(fields["VmRSS"].split()[0]) / 1024.0,
        "descriptors": float(len(os.listdir("/proc/%d/fd" % pid))),
        "threads": float(fields["Threads"]),
    }


def run_round(master, number):
    """100,000 tasks; the results are compared as they come."""
    items = range(number * ROUND_TASKS, (number + 1) * ROUND_TASKS)
    if number % 2:
        assert master.map(double, items, progress=False) == [2 * x for x in items], "a result is wrong or missing"
        return
    master.register_target_function(double)
    master.load_args(items)
    seen = bytearray(ROUND_TASKS)
    for argument, result in master.imap_unordered():
        assert result == 2 * argument and not seen[argument - items[0]], "wrong or doubled: %r" % argument
        seen[argument - items[0]] = 1
    assert sum(seen) == ROUND_TASKS, "%d results are missing" % (ROUND_TASKS - sum(seen))


def churn(master, number, work):
    """A node joins while the work goes on; then it is killed, or leaves tidily."""
    node = support.start_node(master.PORT, master.AUTHKEY, 1)
    try:
        support.wait_until(lambda: len(master.list_workers()) == 2, 60, "a node's joining")
        if number // 2 % 2:  # of both kinds of rounds
            node.kill()
        else:
            os.kill(node.pid, signal.SIGINT)
            node.wait(60)
        work.result(600)
        support.wait_until(lambda: len(master.list_workers()) == 1, 60, "the node's absence from the list")
    finally:
        node.kill()


def judge(name, samples):
    """Print one process's figures; true when nothing grew beyond its limit."""
    good = True
    window = max(1, min(5, len(samples) // 3))
    for kind, limit in LIMITS.items():
        series = [each[kind] for each in samples]
        first, last = statistics.median(series[:window]), statistics.median(series[-window:])
        word = "ok" if last - first <= limit else "GREW"
        good = good and word == "ok"
        line = "%-6s  %-12s  %8.1f  %8.1f  %8.1f  %+8.1f  %8.1f  %s"
        print(line % (name, kind, first, last, max(series), last - first, limit, word))
    return good


def main():
    rounds = max(WARM_UP_ROUNDS + 3, int(os.environ.get("TASKS", "10000000")) // ROUND_TASKS)
    began, mine, its = time.monotonic(), [], []
    with MasterNode(PORT=0) as master:
        master.start_master_server(if_join_as_worker=False)
        with support.node_of(master, 1) as node:
            for number in range(rounds):
                churn(master, number, support.Background(run_round, master, number))
                mine.append(sample(os.getpid()))
                its.append(sample(node.pid))
                if sys.stderr.isatty():
                    sys.stderr.write("\r%d of %d rounds" % (number + 1, rounds))
    text = "\n%d tasks, %d nodes came and went (half of them killed), %.0f s\n"
    print(text % (rounds * ROUND_TASKS, rounds, time.monotonic() - began))
    print("process what             first      last   highest    growth     limit")
    good = [judge("master", mine[WARM_UP_ROUNDS:]), judge("node", its[WARM_UP_ROUNDS:])]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
