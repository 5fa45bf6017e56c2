"""What the workloads run in worker processes. Every peer's worker processes import it: it imports nothing large."""

import os
import time
from dataclasses import dataclass

#: What a worker process keeps: a large object for all its tasks, or how many times slower than others it is.
kept = slowness = None


@dataclass(frozen=True)
class Item:
    number: int
    text: str


def double(x):
    return x * 2


def echo(value):
    return value


def spin(seconds):
    """Compute for so long by the clock: on a busy machine the task takes no longer than it says."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds


def factorize(n):
    """Prime factors by trial division."""
    factors, p = [], 2
    while p * p <= n:
        while n % p == 0:
            factors.append(p)
            n //= p
        p += 1 if p == 2 else 2
    if n > 1:
        factors.append(n)
    return factors


def pid_after(seconds):
    time.sleep(seconds)
    return os.getpid()


def spin_unevenly(given):
    """(file, seconds): the first process that makes the file is ten times slower than the others from then on."""
    global slowness
    path, seconds = given
    if slowness is None:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            slowness = 10
        except OSError:
            slowness = 1
    spin(seconds * slowness)
    return seconds


def pick(array, index):
    return float(array[index])


def keep(array):
    """For pools that give each worker process a large object with their initializer."""
    global kept
    kept = array


def pick_kept(index):
    return float(kept[index])
