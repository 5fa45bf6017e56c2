"""``python -m minimalcluster demo``: a real cluster on one machine solves three problems; the answers are checked.

It uses only what a user's script would use: ``MasterNode`` and the ``node`` command.
"""
from __future__ import absolute_import, division, print_function

import math
import os
import random
import subprocess
import sys
import threading

from .. import __version__
from ..compat import cpu_count, monotonic
from ..master.masternode import MasterNode
from ..master.progress import duration, line
from ..node import boot

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Sequence  # noqa: F401 # novm

JOIN_SECONDS = 30.0
NODE_END_SECONDS = 3.0
PLAIN_LINE_SECONDS = 2.0
#: Earlier, the time left would be estimated from one or two tasks.
FIRST_LINE_SECONDS = 0.5
#: To send a shorter task and to collect its result takes about as long as to run it.
SHARED_TASK_SECONDS = 5e-6

PI_SOURCE = """
from random import random

throw = lambda _: 1 if (random() * 2 - 1) ** 2 + (random() * 2 - 1) ** 2 < 1 else 0
"""

FACTORIZE_SOURCE = """
def factorize(n):
    # Trial division by 2, 3 and the numbers 6k - 1, 6k + 1.
    factors = []
    for p in (2, 3):
        while n % p == 0:
            factors.append(p)
            n //= p
    p, step = 5, 2
    while p * p <= n:
        while n % p == 0:
            factors.append(p)
            n //= p
        p += step
        step = 6 - step
    if n > 1:
        factors.append(n)
    return factors
"""

PAIRS_SOURCE = "add = lambda pair: pair[0] + pair[1]"


def run(quick=False):
    # type: (bool) -> int
    """0 if every answer is right, 1 if one is not, 130 after Ctrl-C."""
    print("minimalcluster %s, Python %s, %d processors" % (__version__, sys.version.split()[0], cpu_count()))
    node = None
    try:
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            node = _start_second_node(master)
            _wait_for_both(master, node)
            _show_nodes(master)
            checks = [
                _pi(master, 10**5 if quick else 10**6),
                _factorize(master, 200 if quick else 5000),
                _pairs(master),
                _check("both nodes worked", _both_worked(master)),
            ]
            _show_nodes(master)
    except KeyboardInterrupt:
        print("\ninterrupted: the nodes and their worker processes have ended")
        return 130
    finally:
        if node is not None:
            _end(node)
    good = all(checks)
    print("everything checked out" if good else "SOMETHING IS WRONG, see above")
    return 0 if good else 1


# -- the nodes ------------------------------------------------------------------------------------


def _start_second_node(master):
    # type: (MasterNode) -> subprocess.Popen[bytes]
    """Start a node as on another machine: a process that joins over TCP, and reads the key from its standard input."""
    package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environ = boot.variables()
    environ["PYTHONPATH"] = os.pathsep.join([package_parent] + [p for p in [environ.get("PYTHONPATH")] if p])
    command = [sys.executable, "-m", "minimalcluster", "node", "127.0.0.1:%d" % master.PORT, "--key-stdin"]
    command += ["--quiet", "--nprocs", str(max(1, cpu_count() // 2))]
    node = subprocess.Popen(command, stdin=subprocess.PIPE, env=environ)
    with boot.pipe(node.stdin) as pipe:
        pipe.write(("%s\n" % master.AUTHKEY).encode("ascii"))
    return node


def _wait_for_both(master, node):
    # type: (MasterNode, subprocess.Popen[bytes]) -> None
    deadline = monotonic() + JOIN_SECONDS
    pause = threading.Event()
    while len(master.list_workers()) < 2:
        if node.poll() is not None or monotonic() > deadline:
            raise EnvironmentError("the second node did not join (exit code %s)" % node.poll())
        pause.wait(0.02)


def _end(node):
    # type: (subprocess.Popen[bytes]) -> None
    """Wait for the end of the node, which leaves when the master shuts down; kill it if it does not."""
    ended = threading.Thread(target=node.wait)
    ended.daemon = True
    ended.start()
    ended.join(NODE_END_SECONDS)
    if ended.is_alive():
        node.kill()
        ended.join(NODE_END_SECONDS)


def _show_nodes(master):
    # type: (MasterNode) -> None
    titles = ("node", "procs", "pid", "python", "system", "address", "tasks done")
    print("\n  %-20s %5s %8s %6s  %-9s %-22s %9s" % titles)
    for worker in master.list_workers():
        print(
            "  %-20s %5d %8d %6s  %-9s %-22s %9d"
            % (worker.hostname[:20], worker.nprocs, worker.pid, worker.python, worker.platform,
               worker.address or "(the master's process)", worker.tasks_done)
        )  # fmt: skip
    print("")


def _both_worked(master):
    # type: (MasterNode) -> bool
    workers = master.list_workers()
    return len(workers) == 2 and all(worker.tasks_done > 0 for worker in workers)


# -- the problems ---------------------------------------------------------------------------------


def _pi(master, throws):
    # type: (MasterNode, int) -> bool
    print("1. pi from {:,} random throws".format(throws))
    results, seconds = _solve(master, PI_SOURCE, "throw", range(throws))
    estimate = 4.0 * sum(results.values()) / throws
    # A throw hits with probability pi/4. An error above five standard deviations happens once in 1.7 million runs.
    allowed = 5 * 4 * math.sqrt(math.pi / 4 * (1 - math.pi / 4) / throws)
    _compare(master, throws, seconds, range(0, throws, 50))
    return _check(
        "%d results, pi is roughly %.5f, off by %.5f (allowed %.5f)"
        % (len(results), estimate, abs(estimate - math.pi), allowed),
        len(results) == throws and abs(estimate - math.pi) < allowed,
    )


def _factorize(master, more):
    # type: (MasterNode, int) -> bool
    numbers = [999999999999 + 2 * n for n in range(more + 1)]
    print("2. the factors of {:,} numbers from {:,} on".format(len(numbers), numbers[0]))
    results, seconds = _solve(master, FACTORIZE_SOURCE, "factorize", numbers)
    wrong = [number for number in numbers if not _right_factors(number, results.get(number))]
    sample = random.Random(1).sample(numbers, min(100, len(numbers)))
    _compare(master, len(numbers), seconds, sample)
    return _check(
        "%d results, for example %d = %s; every product and every factor's primality checked"
        % (len(results), numbers[0], " x ".join(map(str, results[numbers[0]]))),
        list(results) == numbers and not wrong,
    )


def _pairs(master):
    # type: (MasterNode) -> bool
    pairs = [(1, 2), (3, 4), (5, 6), (7, 8)]
    print("3. several arguments as one tuple")
    results, _ = _solve(master, PAIRS_SOURCE, "add", pairs)
    return _check(str(dict(results)), results == {pair: sum(pair) for pair in pairs})


def _solve(master, source, function, arguments):
    # type: (MasterNode, str, str, object) -> tuple[dict, float]
    master.load_envir(source, from_file=False)
    master.register_target_function(function)
    master.load_args(arguments)
    started_at = monotonic()
    display = _Display(started_at)
    results = master.execute(progress=display)
    seconds = max(monotonic() - started_at, 0.001)
    display.end()
    return results, seconds


class _Display(object):
    """Shows progress: on a terminal as one line that is drawn again and again, elsewhere as a line now and then."""

    def __init__(self, started_at):
        # type: (float) -> None
        self._started_at = started_at
        self._terminal = sys.stdout.isatty()
        self._next_at = started_at + FIRST_LINE_SECONDS

    def __call__(self, done, total):
        # type: (int, int) -> None
        now = monotonic()
        text = line(done, total, now - self._started_at)
        if now < self._next_at and done < total:
            return
        if self._terminal:
            self._next_at = now
            sys.stdout.write("\r%-75s" % text)
            sys.stdout.flush()
        else:
            self._next_at = now + PLAIN_LINE_SECONDS
            print(text)

    def end(self):
        # type: () -> None
        if self._terminal:
            print("")


def _compare(master, count, seconds, sample):
    # type: (MasterNode, int, float, Sequence[int]) -> None
    """Print how long one process would need, from the time that it needs for a sample of the arguments."""
    environment = master.environment  # type: Any
    function = getattr(environment, "throw", None) or environment.factorize
    started_at = monotonic()
    for argument in sample:
        function(argument)
    each = max(monotonic() - started_at, 1e-6) / len(sample)
    text = "   %s here; one process would need about %s: %.2f times as fast on %d processors" % (
        duration(seconds), duration(each * count), each * count / seconds, cpu_count(),
    )  # fmt: skip
    if each < SHARED_TASK_SECONDS:
        text += "\n   (a task takes %.1f us: " % (each * 1e6)
        text += "there is little to share, sending and collecting costs as much)"
    print(text)


def _check(what, good):
    # type: (str, bool) -> bool
    print("   %s  %s" % ("ok   " if good else "WRONG", what))
    return good


# -- checks of the factors by another algorithm ---------------------------------------------------


def _right_factors(number, factors):
    # type: (int, list[int] | None) -> bool
    product = 1
    for factor in factors or []:
        product *= factor
    return product == number and all(is_prime(factor) for factor in factors or [])


def is_prime(number):
    # type: (int) -> bool
    """The Miller-Rabin test, which with these bases is exact below 3.4 * 10^14 (Jaeschke 1993)."""
    bases = (2, 3, 5, 7, 11, 13, 17)
    if number < 2 or any(number % base == 0 for base in bases):
        return number in bases
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        x = pow(base, odd, number)
        if x in (1, number - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % number
            if x == number - 1:
                break
        else:
            return False
    return True
