"""What a journal costs: the same job with and without one, in turn.

    python3 bench/journal.py [TASKS [ROUNDS]]

TASKS of 1 ms on 2 worker processes of this machine (10,000 by default: 5 s each time). The medians,
their spread (min - max), and the ratio of the medians; then the same job again from its journal.
"""

import os
import statistics
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from minimalcluster import MasterNode  # noqa: E402

PROCESSES = 2
# Sleeping, not computing: the master then has a processor to itself, and only its own time is seen.
SOURCE = """
import time

def wait(number):
    time.sleep(0.001)
    return number
"""


def run(master, count, journal=None):
    began = time.perf_counter()
    results = master.execute(progress=False, journal=journal)
    seconds = time.perf_counter() - began
    assert results == {number: number for number in range(count)}
    return seconds


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10**4
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    without, having, again = [], [], []
    with tempfile.TemporaryDirectory() as folder, MasterNode(PORT=0) as master:
        os.environ["HOME"] = folder  # the journals' key is made there
        master.start_master_server(if_join_as_worker=False)
        master._cluster.join_local(PROCESSES)
        master.load_envir(SOURCE, from_file=False)
        master.register_target_function("wait")
        master.load_args(range(count))
        run(master, count)  # start what starts late
        for number in range(rounds):
            path = os.path.join(folder, "%d.journal" % number)
            without.append(run(master, count))
            having.append(run(master, count, path))
            again.append(run(master, count, path))
        size = os.path.getsize(path)
    print("%d tasks of 1 ms on %d processes, Python %s" % (count, PROCESSES, sys.version.split()[0]))
    for name, taken in (("without", without), ("with a journal", having), ("again, from it", again)):
        print("  %-16s %8.3f s   (%.3f - %.3f)" % (name, statistics.median(taken), min(taken), max(taken)))
    ratio = statistics.median(having) / statistics.median(without)
    print("  ratio %.3f; the file has %d bytes" % (ratio, size))


if __name__ == "__main__":
    main()
