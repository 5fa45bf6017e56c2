"""Throughput and round trips beside multiprocessing.Pool and ProcessPoolExecutor, in one run.

    python3 bench/throughput.py [ROUNDS]

Each case runs in turn on each of the three, round after round, so that a machine's drift meets
all alike: median and spread (min - max) of the rounds, and the medians' ratio to ours. Their
chunk sizes are set to what suits them; ours measures by itself.
"""

import concurrent.futures
import multiprocessing
import os
import statistics
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from minimalcluster import MasterNode  # noqa: E402

PROCESSES = multiprocessing.cpu_count()
SOURCE = """
import random

def throw(number):
    return random.random() ** 2 + random.random() ** 2 < 1

def double(x):
    return 2 * x
"""
exec(SOURCE)  # the same functions for the pools, which find them in this module


class OfCluster:
    """minimalcluster, as the seed's API has it: a dict of argument -> result."""

    name = "minimalcluster"

    def __init__(self):
        self.master = MasterNode(PORT=0)
        self.master.start_master_server()
        self.master.load_envir(SOURCE, from_file=False)

    def map(self, name, arguments):
        self.master.register_target_function(name)
        self.master.load_args(arguments)
        return self.master.execute(progress=False)

    def prepare(self, name):
        self.master.register_target_function(name)

    def one(self, name, argument):
        self.master.load_args([argument])
        return self.master.execute(progress=False)[argument]

    def close(self):
        self.master.shutdown()


class OfPool:
    """multiprocessing.Pool; its map chooses its own chunks (a quarter of a process's share)."""

    name = "Pool"

    def __init__(self):
        self.pool = multiprocessing.Pool(PROCESSES)

    def map(self, name, arguments):
        return dict(zip(arguments, self.pool.map(globals()[name], arguments)))

    def prepare(self, name):
        pass

    def one(self, name, argument):
        return self.pool.apply(globals()[name], (argument,))

    def close(self):
        self.pool.terminate()
        self.pool.join()


class OfExecutor:
    """concurrent.futures.ProcessPoolExecutor with the Pool's chunks: its default of 1 is 50 times slower."""

    name = "ProcessPoolExecutor"

    def __init__(self):
        self.executor = concurrent.futures.ProcessPoolExecutor(PROCESSES)

    def map(self, name, arguments):
        chunksize = max(1, len(arguments) // (PROCESSES * 4))
        return dict(zip(arguments, self.executor.map(globals()[name], arguments, chunksize=chunksize)))

    def prepare(self, name):
        pass

    def one(self, name, argument):
        return self.executor.submit(globals()[name], argument).result()

    def close(self):
        self.executor.shutdown()


def pi(engine):
    """Seconds for pi from 10^6 throws."""
    count = 10**6
    began = time.perf_counter()
    results = engine.map("throw", range(count))
    seconds = time.perf_counter() - began
    assert len(results) == count
    assert abs(4 * sum(results.values()) / count - 3.14159) < 0.01
    return seconds


def trivial(count):
    def case(engine):
        began = time.perf_counter()
        results = engine.map("double", range(count))
        seconds = time.perf_counter() - began
        assert results[count - 1] == 2 * count - 2
        assert len(results) == count
        return seconds

    return case


def round_trips(engine, count=500):
    """The median's microseconds for one task and its result; the p99 is kept beside."""
    engine.prepare("double")
    times = []
    for number in range(count):
        began = time.perf_counter()
        assert engine.one("double", number) == 2 * number
        times.append(1e6 * (time.perf_counter() - began))
    times.sort()
    p99[engine.name].append(times[int(count * 0.99)])
    return statistics.median(times)


p99 = {}
CASES = [
    ("pi, 10^6 throws: s", pi),
    ("map of 10^5 trivial tasks: s", trivial(10**5)),
    ("map of 10^4 trivial tasks: s", trivial(10**4)),
    ("500 round trips, median: us", round_trips),
]


def show(title, engines, taken):
    print("\n" + title)
    ours = statistics.median(taken[engines[0].name])
    for engine in engines:
        values = taken[engine.name]
        median = statistics.median(values)
        line = "  %-20s %10.4g   (%.4g - %.4g)" % (engine.name, median, min(values), max(values))
        print(line + ("" if engine is engines[0] else "   %.2f x ours" % (median / ours)))
    sys.stdout.flush()


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print("%d processes, Python %s, median of %d rounds (min - max)" % (PROCESSES, sys.version.split()[0], rounds))
    engines = [OfCluster(), OfPool(), OfExecutor()]
    try:
        for engine in engines:
            engine.map("double", range(1000))  # start what starts late
            p99[engine.name] = []
        for title, case in CASES:
            taken = {engine.name: [] for engine in engines}
            for _ in range(rounds):
                for engine in engines:
                    taken[engine.name].append(case(engine))
            show(title, engines, taken)
        show("500 round trips, p99: us", engines, p99)
    finally:
        for engine in engines:
            engine.close()


if __name__ == "__main__":
    main()
