"""ClusterExecutor beside ProcessPoolExecutor and multiprocessing.Pool, in one run.

    python3 bench/executor.py [ROUNDS]

Each case runs in turn on each of the three, round after round, so that a machine's drift meets
all alike: median and spread (min - max) of the rounds, and the medians' ratio to ours. A task is
``abs``: what is measured is the way there and back. ProcessPoolExecutor's chunk size is set to what
suits it (the default of 1 is 50 times slower); ours and the Pool choose by themselves.
"""

import concurrent.futures
import multiprocessing
import os
import statistics
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from minimalcluster import ClusterExecutor  # noqa: E402

PROCESSES = multiprocessing.cpu_count()


class OfCluster:
    name = "ClusterExecutor"

    def __init__(self):
        self.executor = ClusterExecutor(PROCESSES)

    def map(self, count):
        return list(self.executor.map(abs, range(count)))

    def submit(self, number):
        return self.executor.submit(abs, number).result

    def close(self):
        self.executor.shutdown()


class OfStandard(OfCluster):
    name = "ProcessPoolExecutor"

    def __init__(self):
        self.executor = concurrent.futures.ProcessPoolExecutor(PROCESSES)

    def map(self, count):
        return list(self.executor.map(abs, range(count), chunksize=count // (PROCESSES * 4)))


class OfPool:
    name = "Pool"

    def __init__(self):
        self.pool = multiprocessing.Pool(PROCESSES)

    def map(self, count):
        return self.pool.map(abs, range(count))

    def submit(self, number):
        return self.pool.apply_async(abs, (number,)).get

    def close(self):
        self.pool.terminate()
        self.pool.join()


def mapped(count):
    def case(side):
        began = time.perf_counter()
        assert side.map(count) == list(range(count))
        return time.perf_counter() - began

    return case


def round_trips(side, count=500):
    """The median's microseconds for one call and its result; the p99 is kept beside."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        assert side.submit(number)() == number
        times.append(1e6 * (time.perf_counter() - began))
    times.sort()
    p99[side.name].append(times[int(count * 0.99)])
    return statistics.median(times)


def submits(side, count=10**4):
    began = time.perf_counter()
    results = [side.submit(number) for number in range(count)]
    assert [result() for result in results] == list(range(count))
    return time.perf_counter() - began


p99 = {}
CASES = [
    ("map of 10^6 trivial calls: s", mapped(10**6)),
    ("map of 10^5 trivial calls: s", mapped(10**5)),
    ("10^4 single submits: s", submits),
    ("500 round trips, median: us", round_trips),
]


def show(title, taken):
    print("\n" + title)
    ours = statistics.median(taken[OfCluster.name])
    for name, values in taken.items():
        middle = statistics.median(values)
        ratio = "" if name == OfCluster.name else "%7.2f x ours" % (middle / ours)
        print("  %-20s %10.4g   (%.4g - %.4g)%s" % (name, middle, min(values), max(values), ratio))


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    sides = [OfCluster(), OfStandard(), OfPool()]
    names = [side.name for side in sides]
    p99.update((name, []) for name in names)
    print("%d processes, Python %s, median of %d rounds (min - max)" % (PROCESSES, sys.version.split()[0], rounds))
    try:
        for side in sides:
            side.map(1000)  # every process is up
        for title, case in CASES:
            taken = {name: [] for name in names}
            for _ in range(rounds):
                for side in sides:
                    taken[side.name].append(case(side))
            show(title, taken)
        show("500 round trips, p99: us", p99)
    finally:
        for side in sides:
            side.close()


if __name__ == "__main__":
    main()
