"""The work that every peer does, and the figures that are taken of it.

A workload is a function of a running peer and a size; it checks the results, and returns figures by name. How a figure
is shown is in FIGURES: its title, its unit, and whether more is better.
"""

import math
import os
import random
import resource
import signal
import statistics
import tempfile
import threading
import time
from collections import namedtuple

import peers
import processes
import tasks

#: quick, full: the sizes. engines: whether peers that take milliseconds for a task do it, too.
Workload = namedtuple("Workload", "name run quick full engines")
Figure = namedtuple("Figure", "title unit more")

ALL, FIGURES = {}, {}


def workload(quick, full, engines=True, **figures):
    def add(function):
        ALL[function.__name__] = Workload(function.__name__, function, quick, full, engines)
        FIGURES.update((name, Figure(*each)) for name, each in figures.items())
        return function

    return add


def timed(function, *arguments):
    """(seconds, what it returned)."""
    began = time.perf_counter()
    value = function(*arguments)
    return time.perf_counter() - began, value


# -- small tasks ---------------------------------------------------------------------------------------


@workload(
    300, 1000,
    trip_us=("one round trip, median", "us", False), trip_p99_us=("one round trip, 99th percentile", "us", False),
)  # fmt: skip
def trips(peer, count):
    """Single calls, one after the other."""
    times = []
    until = time.perf_counter() + 10.0  # for the package of 2017: 1.5 s each
    for number in range(count):
        seconds, result = timed(lambda n=number: peer.submit(tasks.double, n)())
        assert result == 2 * number
        times.append(seconds * 1e6)
        if time.perf_counter() > until:
            break
    times.sort()
    return {"trip_us": statistics.median(times), "trip_p99_us": times[int(len(times) * 0.99)]}


@workload(10**4, 10**4, submits_rate=("10^4 single submits", "tasks/s", True))
def submits(peer, count):
    """Many calls, each with a future of its own."""
    if not peer.has_futures:
        raise peers.CannotError
    results = []

    def run():
        results.extend([peer.submit(tasks.double, number) for number in range(count)])
        return [result() for result in results]

    count = min(count, 500) if not peer.fast_submit else count
    seconds, found = timed(run)
    assert found == [2 * number for number in range(count)]
    return {"submits_rate": count / seconds}


def mapped(count, label, engines=True):
    rate, peak = "map_%s_rate" % label, "map_%s_peak_mib" % label

    def run(peer, count):
        before = peak_mib()
        seconds, found = timed(peer.map, tasks.double, range(count))
        peak_after = peak_mib(False)
        assert len(found) == count
        assert found[-1] == 2 * count - 2
        return {rate: count / seconds, peak: peak_after - before}

    run.__name__ = "map_" + label
    figures = {
        rate: ("map of x * 2 over range(10^%s)" % label[1:], "tasks/s", True),
        peak: ("the caller's memory grows by, 10^%s" % label[1:], "MiB", False),
    }
    return workload(count, count, engines, **figures)(run)


mapped(10**4, "e4")
mapped(10**5, "e5")
mapped(10**6, "e6")


def peak_mib(reset=True):
    """The largest memory of this process; reset: from now on."""
    try:
        if reset:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
    except OSError:  # not on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@workload(
    40000, 125000, False,
    tuples_us=("map over tuples (i, i)", "us an item", False), texts_us=("map over texts", "us an item", False),
    dicts_us=("map over dicts", "us an item", False), dataclasses_us=("map over dataclasses", "us an item", False),
)  # fmt: skip
def kinds(peer, count):
    """A map that gives back what it gets, of several kinds."""
    given = {
        "tuples_us": [(i, i) for i in range(count)],
        "texts_us": ["number %d" % i for i in range(count)],
        "dicts_us": [{"number": i} for i in range(count)],
        "dataclasses_us": [tasks.Item(i, "x") for i in range(count)],
    }
    figures = {}
    for name, items in given.items():
        seconds, found = timed(peer.map, tasks.echo, items)
        assert found == items
        figures[name] = seconds * 1e6 / count
    return figures


@workload(
    0.1, 0.2,
    metg_map_us=("smallest task with 50 % efficiency, map", "us", False),
    metg_submit_us=("smallest task with 50 % efficiency, submit", "us", False),
)  # fmt: skip
def metg(peer, seconds):
    """The task size at which half of the processors' time is work: what the coordination costs is as long as the task.

    Sizes double from run to run; between the last below 50 % and the first above, the size is interpolated.
    """
    figures = {"metg_map_us": _metg(peer, seconds, lambda items: peer.map(tasks.spin, items), 1, 10**6)}
    if peer.fast_submit:
        figures["metg_submit_us"] = _metg(peer, seconds, lambda items: peer.each(tasks.spin, items), 16, 4000)
    return figures


def _metg(peer, seconds, run, size_us, tasks_max):
    below = None
    while size_us < 2**17:
        count = int(min(tasks_max, max(16 * peer.workers, seconds * peer.workers * 1e6 / size_us)))
        items = [size_us * 1e-6 + number * 1e-14 for number in range(count)]  # the package of 2017 wants them distinct
        efficiency = sum(items) / peer.workers / timed(run, items)[0]
        if efficiency >= 0.5:
            if below is None:
                return size_us
            part = (0.5 - below) / (efficiency - below)
            return size_us / 2 * 2**part
        below, size_us = efficiency, size_us * 2
    return math.inf


# -- large values --------------------------------------------------------------------------------------


@workload(
    24, 64,
    bytes_rate=("values of 4 MiB there and back, bytes", "MB/s", True),
    arrays_rate=("values of 4 MiB there and back, NumPy", "MB/s", True),
)  # fmt: skip
def payloads(peer, count):
    """Values of 4 MiB go to a task and come back: by map and one by one, and the quicker of the two counts. What went
    one way is counted."""
    import numpy

    figures = {}
    numbers = numpy.random.default_rng(1)
    values = {
        "bytes_rate": [numbers.bytes(4 << 20) for _ in range(count)],
        "arrays_rate": [numbers.random(4 << 17) for _ in range(count)],
    }
    for name, items in values.items():
        seconds = []
        for way in (peer.map, peer.each):
            try:
                taken, found = timed(way, tasks.echo, items)
            except Exception:  # one of the ways, or a value that is no argument for this peer
                if not seconds and way == peer.each:
                    break
                continue
            assert all((a == b) if isinstance(a, bytes) else (a == b).all() for a, b in zip(items[::9], found[::9]))
            seconds.append(taken)
            found = None
        if seconds:
            figures[name] = count * (4 << 20) / 1e6 / min(seconds)
    return figures


@workload(
    64, 256,
    shared_seconds=("a large object shared by 1,000 tasks", "s", False),
    shared_mib=("memory of all processes then", "MiB", False),
)  # fmt: skip
def shared(peer, mebibytes):
    """One array that 1,000 tasks read: the time from having it to the last result, and the memory of all processes."""
    import numpy

    array = numpy.arange(mebibytes << 17, dtype=float)
    before = tree_mib()
    seconds, found = timed(peer.shared, tasks.pick, array, range(1000))
    assert found == [float(number) for number in range(1000)]
    return {"shared_seconds": seconds, "shared_mib": tree_mib() - before}


def tree_mib():
    """Memory of this process and of all below it, where what several share counts once (Linux: Pss)."""
    total = 0
    for pid in [os.getpid(), *processes.below(os.getpid())]:
        try:
            with open("/proc/%d/smaps_rollup" % pid) as file:
                total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except (OSError, StopIteration):
            pass  # it has ended
    return total / 1024


# -- unequal tasks, unequal processes ------------------------------------------------------------------


@workload(2.0, 4.0, heavy_efficiency=("200 heavy-tailed tasks, efficiency", "", True))
def heavy(peer, seconds):
    """200 tasks, most of them short, few of them long, in any order."""
    numbers = random.Random(7)
    lengths = [numbers.paretovariate(1.3) for _ in range(200)]
    lengths = [seconds * each / sum(lengths) for each in lengths]
    taken, found = timed(peer.spread, tasks.spin, lengths)
    assert found == lengths
    return {"heavy_efficiency": max(sum(lengths) / peer.workers, *lengths) / taken}


@workload(400, 800, uneven_efficiency=("one of the processes is ten times slower, efficiency", "", True))
def uneven(peer, count):
    """Tasks of 2 ms, where one process (a node's only one, with nodes) takes ten times as long."""
    with tempfile.TemporaryDirectory() as folder:
        items = [(os.path.join(folder, "slow"), 0.002 + number * 1e-9) for number in range(count)]
        seconds, found = timed(peer.spread, tasks.spin_unevenly, items)
    assert found == [each for _, each in items]
    return {"uneven_efficiency": sum(found) / (peer.workers - 0.9) / seconds}


@workload(
    1000, 2000,
    calm_seconds=("tasks of 2 ms, undisturbed", "s", False),
    killed_seconds=("the same, a worker process killed at 30 %", "s", False),
)  # fmt: skip
def kill(peer, count):
    """A worker process is killed at 30 % of the work. "right": every result is there all the same."""
    lengths = [0.002 + number * 1e-9 for number in range(count)]
    calm, _ = timed(peer.map, tasks.spin, lengths)
    figures = {"calm_seconds": calm}
    pids = set()
    for number in range(10):
        pids.update(peer.map(tasks.pid_after, [0.01 + number * 1e-6 + k * 1e-9 for k in range(16)]))
        if len(pids) >= peer.workers:
            break
    threading.Timer(0.3 * sum(lengths) / peer.workers, os.kill, (pids.pop(), signal.SIGKILL)).start()
    try:
        seconds, found = timed(peer.map, tasks.spin, lengths)
    except Exception as error:
        figures["killed_outcome"] = "raises " + type(error).__name__
        return figures
    figures["killed_outcome"] = "right" if found == lengths else "wrong"
    figures["killed_seconds"] = seconds
    return figures


@workload(300, 5000, factorize_seconds=("numbers near 10^12 factorized", "s", False))
def factorize(peer, count):
    numbers = random.Random(3)
    given = [10**12 + each for each in numbers.sample(range(10**6), count)]
    seconds, found = timed(peer.map, tasks.factorize, given)
    assert math.prod(found[0]) == given[0]
    return {"factorize_seconds": seconds}


#: Measured around the whole process: by ``runner.py``.
FIGURES["start_seconds"] = Figure("start of the program to its first result", "s", False)
FIGURES["exit_seconds"] = Figure("start of the program to its end", "s", False)
