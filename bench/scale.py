"""What a master takes for up to 1,000 nodes of 8 slots: a real master, and simulated nodes in other processes.

    python3 bench/scale.py            up to 1,000 nodes and 10^7 tasks: about 6 minutes
    python3 bench/scale.py --quick    up to 1,000 nodes and 10^6 tasks: about 2 minutes

Frames are real, over loopback, with tags; no code of a user runs in the nodes. CPU time is that of the master's whole
process, with the thread that takes the results. A lost rack: the process with a fifth of the nodes is killed.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import report  # noqa: E402

from minimalcluster import ClusterExecutor  # noqa: E402

SLOTS = 8
PROCESSES = 5
NODES_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "simulated_nodes.py")
#: A task of the runs over ever more nodes: all slots are to be busy for so long.
TASK_SECONDS, BUSY_SECONDS = 0.1, 10.0
WAIT_SECONDS = 120.0


def memory_mib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


class Run:
    """A master with so many simulated nodes. ``with Run(100, 0.1) as run``."""

    def __init__(self, nodes, task_seconds):
        gc.collect()
        self.nodes, self.memory_before = nodes, memory_mib()
        self.executor = ClusterExecutor(join=False)
        began, cpu = time.monotonic(), time.process_time()
        shares = [nodes // PROCESSES + (number < nodes % PROCESSES) for number in range(PROCESSES)]
        self.processes = [self._start(share, task_seconds) for share in shares if share]
        self._wait(lambda: self.executor._core.cluster.slots == nodes * SLOTS)
        self.join_seconds, self.join_cpu = time.monotonic() - began, time.process_time() - cpu
        self.node_kib = (memory_mib() - self.memory_before) * 1024 / nodes
        self.chunks = 0

    def _start(self, count, task_seconds):
        words = [
            sys.executable,
            NODES_PROGRAM,
            str(self.executor.address[1]),
            str(count),
            str(SLOTS),
            str(task_seconds),
        ]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        process.stdin.write(self.executor.authkey + "\n")
        process.stdin.flush()
        return process

    def _wait(self, condition):
        until = time.monotonic() + WAIT_SECONDS
        while not condition():
            if time.monotonic() > until:
                raise SystemExit("the nodes have not come in %.0f s" % WAIT_SECONDS)
            time.sleep(0.01)

    def tasks(self, count, hurt=lambda: None):
        """(seconds, CPU seconds, MiB by which the memory has grown) of so many tasks, consumed as they come."""
        before, began, cpu = memory_mib(), time.monotonic(), time.process_time()
        results = self.executor.map(abs, range(count))
        hurt()
        seen, largest = 0, before
        for _ in results:
            seen += 1
            if not seen % 100000:
                largest = max(largest, memory_mib())
        assert seen == count, "%d of %d results" % (seen, count)
        return time.monotonic() - began, time.process_time() - cpu, max(largest, memory_mib()) - before

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Afterwards ``chunks`` is the number of all chunks."""
        self.executor.shutdown()
        for process in self.processes:
            out = process.communicate(timeout=WAIT_SECONDS)[0]
            self.chunks += json.loads(out)["chunks"] if out.strip() else 0


said = []


def say(text):
    said.append(text)
    print(text, flush=True)


def show(*cells):
    say("| " + " | ".join(map(str, cells)) + " |")


def head(title, *columns):
    say("\n### %s\n" % title)
    show(*columns)
    show(*["---"] * len(columns))


def by_nodes(sizes):
    head(
        "Tasks of %g s on all slots for %g s" % (TASK_SECONDS, BUSY_SECONDS), "nodes", "tasks", "tasks/s",
        "of what the slots can do", "chunks/s", "the master's CPU", "us a task", "us a chunk", "KiB a node",
    )  # fmt: skip
    for nodes in sizes:
        count = int(nodes * SLOTS * BUSY_SECONDS / TASK_SECONDS)
        with Run(nodes, TASK_SECONDS) as run:
            seconds, cpu, _ = run.tasks(count)
        show(
            format(nodes, ","), format(count, ","), format(round(count / seconds), ","),
            "%.0f %%" % (100 * count * TASK_SECONDS / (nodes * SLOTS) / seconds), "%.0f" % (run.chunks / seconds),
            "%.0f %%" % (100 * cpu / seconds), "%.1f" % (1e6 * cpu / count), "%.0f" % (1e6 * cpu / run.chunks),
            "%.0f" % run.node_kib,
        )  # fmt: skip


def by_tasks(sizes, nodes=100):
    head(
        "Tasks that take no time, on %d nodes" % nodes,
        "tasks", "tasks/s", "chunks", "us a task", "us a chunk", "memory grows by",
    )  # fmt: skip
    for count in sizes:
        with Run(nodes, 0) as run:
            seconds, cpu, grown = run.tasks(count)
        show(
            format(count, ","), format(round(count / seconds), ","), run.chunks, "%.2f" % (1e6 * cpu / count),
            "%.0f" % (1e6 * cpu / run.chunks), "%.1f MiB" % grown,
        )  # fmt: skip


def idle(nodes, seconds):
    with Run(nodes, TASK_SECONDS) as run:
        joined = "%s nodes joined at once in %.1f s, with %.1f s of the master's CPU" % (
            format(nodes, ","), run.join_seconds, run.join_cpu,
        )  # fmt: skip
        time.sleep(2.0)
        cpu = time.process_time()
        time.sleep(seconds)
        spent = time.process_time() - cpu
    say("\n%s; idle, they take %.1f %% of a core." % (joined, 100 * spent / seconds))


def lost_rack(nodes):
    """A fifth of the nodes is killed a quarter into the work."""
    count = int(nodes * SLOTS * BUSY_SECONDS / TASK_SECONDS)
    with Run(nodes, TASK_SECONDS) as run:

        def hurt():
            time.sleep(BUSY_SECONDS / 4)
            run.processes[0].kill()

        seconds, cpu, _ = run.tasks(count, hurt)
    ideal = BUSY_SECONDS * (1 / 4 + 3 / 4 / 0.8)
    say(
        "\n%d of %s nodes killed a quarter into the work: every result came once, in %.1f s where the rest could do it "
        "in %.1f s; the master's CPU %.0f %%."
        % (nodes // PROCESSES, format(nodes, ","), seconds, ideal, 100 * cpu / seconds)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--only", default="nodes,tasks,idle,rack")
    parser.add_argument("--write", action="store_true", help="write what is printed into docs/scale.md, too")
    arguments = parser.parse_args()
    wanted, most = arguments.only.split(","), arguments.nodes
    about = sys.version.split()[0], os.cpu_count(), os.getloadavg()[0]
    say("Python %s, %d cores, load %.1f before." % about)
    if "nodes" in wanted:
        by_nodes([each for each in ((1, 100, 1000) if arguments.quick else (1, 10, 100, 300, 1000)) if each <= most])
    if "tasks" in wanted:
        by_tasks([10**each for each in ((3, 5, 6) if arguments.quick else (3, 4, 5, 6, 7))], min(100, most))
    if "idle" in wanted:
        idle(most, 5.0 if arguments.quick else 20.0)
    if "rack" in wanted:
        lost_rack(most)
    if arguments.write:
        report.write("\n".join(said), os.path.join(ROOT, "docs", "scale.md"))


if __name__ == "__main__":
    main()
