"""Fuzz every reader of bytes that others may have written, with atheris: coverage of the package is its guide.

    python3 tools/fuzz.py                          10,000,000 frames, on all processors
    python3 tools/fuzz.py --frames 100000          fewer
    python3 tools/fuzz.py --target frames          one target; may be given again
    python3 tools/fuzz.py --coverage               which lines the inputs found so far reach; fuzzes nothing

A frame is a frame, a message, a record or a file that a target gets; ``tests/fuzz/targets.py`` says how many each one
gets of all. Inputs that reach something new are kept in build/fuzz/, and are where the next run begins. An input that
breaks a rule is made as short as it can be, and put among those in ``tests/fuzz/corpus/``, which the tests repeat: the
exit status is 1 then. Atheris is there for CPython 3.11 to 3.13 on Linux.
"""

import argparse
import glob
import hashlib
import os
import re
import subprocess
import sys
import threading
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from tests.fuzz.targets import TARGETS  # noqa: E402

FRAMES = 10000000
#: A process of the fuzzer gets this part of all frames, so that all processors are busy to the end; but so many, since
#: its start takes seconds.
SLICES, SLICE_MIN = 40, 20000
KEPT = os.path.join(ROOT, "build", "fuzz")
CORPUS = os.path.join(ROOT, "tests", "fuzz", "corpus")
#: Longer than the slowest input takes under all instruments, on a busy machine.
INPUT_SECONDS, INPUT_MB = 30, 1024
REPORT_SECONDS, PROGRESS_SECONDS = 1.0, 10.0
#: Every so manyth input's memory is measured.
MEASURED = 1000
#: Of a failing input, for logs of machines that keep no files.
SHOWN_BYTES = 600
#: How often a failing input is tried with a part less.
SHRINK_TRIES = 20000


# -- in a process of the fuzzer -------------------------------------------------------------------


def fuzz(name, frames):
    """Feed the target until so many frames are done, then end this process; libFuzzer never returns."""
    import atheris

    with atheris.instrument_imports(include=["minimalcluster"], enable_loader_override=False):
        for module in sorted(each for each in sys.modules if each.split(".")[0] in ("minimalcluster", "tests")):
            del sys.modules[module]  # they were imported without the instruments
        from tests.fuzz import files, memory, targets
    memory.every = MEASURED
    target = targets.TARGETS[name]
    done, executions, said_at = 0, 0, 0.0

    def one(data):
        nonlocal done, executions, said_at
        done += target.function(data)
        executions += 1
        if done >= frames or time.monotonic() > said_at + REPORT_SECONDS:
            said_at = time.monotonic()
            print(executions, done, flush=True)
        if done >= frames:
            files.remove_folder()
            os._exit(0)

    found, known = os.path.join(KEPT, name), os.path.join(CORPUS, name)
    options = ["-max_len=%d" % target.longest, "-timeout=%d" % INPUT_SECONDS, "-rss_limit_mb=%d" % INPUT_MB]
    atheris.Setup([sys.argv[0], *options, "-artifact_prefix=%s/" % artifacts(name), found, known], one)
    atheris.Fuzz()


def artifacts(name):
    return os.path.join(KEPT, "artifacts-" + name)


def shortened(name, data):
    """The shortest input that breaks the rule at the same place, as far as leaving out parts and zeros can find it."""
    wanted, tries, size = broken(name, data), 0, len(data)
    while wanted and size and tries < SHRINK_TRIES:
        at, before = 0, data
        while at < len(data):
            tries += 1
            first, part, last = data[:at], data[at : at + size], data[at + size :]
            for shorter in (first + last, first + bytes(len(part)) + last):
                if shorter != data and broken(name, shorter) == wanted:
                    data = shorter
                    break
            else:
                at += size
        size = size // 2 if data == before or size > 1 else 1
    return data, wanted


def broken(name, data):
    """What it raises and where; None if no rule is broken."""
    try:
        TARGETS[name].function(data)
    except Exception as error:
        path, line = traceback.extract_tb(error.__traceback__)[-1][:2]
        return type(error).__name__, "%s:%d" % (os.path.relpath(path, ROOT), line)
    return None


def shrink(name, path):
    with open(path, "rb") as file:
        data, wanted = shortened(name, file.read())
    kept = os.path.join(CORPUS, name, "found-" + hashlib.sha256(data).hexdigest()[:8])
    with open(kept, "wb") as file:
        file.write(data)
    what, place = wanted or ("it took too long or too much memory, or not again", "?")
    print("%s (%d bytes): %s at %s" % (os.path.relpath(kept, ROOT), len(data), what, place))
    print("its bytes: %r" % data[:SHOWN_BYTES])
    if wanted:
        try:
            TARGETS[name].function(data)
        except Exception:
            traceback.print_exc(limit=-3, file=sys.stdout)


# -- all processes --------------------------------------------------------------------------------


class Run:
    """What has been done for one target."""

    def __init__(self, name, frames):
        self.name, self.wanted = name, frames
        self.executions = self.frames = self.coverage = 0
        self.seconds = 0.0
        self.findings = []
        self._lock = threading.Lock()

    def part(self, number, frames):
        """One process of the fuzzer, to its end. number: of the thread that waits for it."""
        for folder in (os.path.join(KEPT, self.name), artifacts(self.name), os.path.join(CORPUS, self.name)):
            os.makedirs(folder, exist_ok=True)
        began, log = time.monotonic(), os.path.join(KEPT, "%s-%d.log" % (self.name, number))
        command = [sys.executable, os.path.abspath(__file__), "--part", self.name, str(frames)]
        with open(log, "wb") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, text=True)
            before, said = (0, 0), []
            for line in process.stdout:
                if re.match(r"\d+ \d+$", line):
                    now = tuple(map(int, line.split()))
                    with self._lock:  # two processes may be at one target
                        self.executions += now[0] - before[0]
                        self.frames += now[1] - before[1]
                    before = now
                else:
                    said.append(line)  # atheris writes the exception there
            code = process.wait()
        with self._lock:
            self.seconds += time.monotonic() - began
        with open(log, errors="replace") as file:
            told = file.read()
        self.coverage = max([self.coverage, *map(int, re.findall(r"cov: (\d+)", told))])
        if code:
            self._keep("".join(said[-40:]) + "\n".join(line for line in told.splitlines() if "ERROR" in line))

    def _keep(self, text):
        paths = sorted(glob.glob(os.path.join(artifacts(self.name), "*")))
        for path in paths:
            done = subprocess.run(
                [sys.executable, os.path.abspath(__file__), "--shrink", self.name, path],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, text=True, check=False,
            )  # fmt: skip
            os.remove(path)
            self.findings.append("%s\n%s" % (done.stdout.strip(), text))
        if not paths:
            self.findings.append(text)
        print("FOUND in %s: %s" % (self.name, self.findings[-1]), flush=True)


def parts(runs):
    """(run, frames) of each process, in turn, so that each target gets its first soon."""
    slice_ = max(SLICE_MIN, sum(run.wanted for run in runs) // SLICES)
    left = {run: run.wanted for run in runs}
    while left:
        for run in list(left):
            frames = min(slice_, left[run])
            yield run, frames
            left[run] -= frames
            if not left[run]:
                del left[run]


def fuzz_all(runs, jobs):
    waiting, lock, began = list(parts(runs)), threading.Lock(), time.monotonic()

    def work(number):
        while True:
            with lock:
                free = [each for each in waiting if each[0] not in busy] or waiting
                if not free:
                    return
                run, frames = free[0]
                waiting.remove(free[0])
                busy.append(run)
            try:
                if not run.findings:
                    run.part(number, frames)
            finally:
                with lock:
                    busy.remove(run)

    busy = []
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(jobs)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(PROGRESS_SECONDS / jobs)
        done, wanted = sum(run.frames for run in runs), sum(run.wanted for run in runs)
        names = ", ".join(run.name for run in busy)
        found = sum(len(run.findings) for run in runs)
        text = "%6.0f s  %d of %d frames, %d findings; now: %s"
        print(text % (time.monotonic() - began, done, wanted, found, names), flush=True)


def report(runs):
    print("%-10s %10s %10s %8s %6s %7s %s" % ("target", "frames", "inputs", "inputs/s", "edges", "kept", "findings"))
    for run in runs:
        kept = len(os.listdir(os.path.join(KEPT, run.name))) if os.path.isdir(os.path.join(KEPT, run.name)) else 0
        rate = run.executions / run.seconds if run.seconds else 0
        print("%-10s %10d %10d %8.0f %6d %7d %d" % (
            run.name, run.frames, run.executions, rate, run.coverage, kept, len(run.findings),
        ))  # fmt: skip
    for run in runs:
        for finding in run.findings:
            path = finding.split(" ")[0]
            print("\n%s: %s\nrepeat: python3 -m tests.fuzz %s %s" % (run.name, finding, run.name, path))


# -- which lines are reached ----------------------------------------------------------------------

READERS = (
    "wire/frames", "wire/handshakes", "wire/protocol", "wire/checks", "wire/key_files", "payload/safe",
    "master/journal", "master/sessions", "brain/scheduler", "brain/ledger", "brain/agent", "brain/status",
)  # fmt: skip


def coverage(names):
    """Lines of the package's readers that the inputs reach, in percent of all lines of their functions."""
    paths = {os.path.join(ROOT, "minimalcluster", each + ".py"): set() for each in READERS}

    def trace(frame, event, argument):
        reached = paths.get(frame.f_code.co_filename)
        if reached is None:
            return None
        reached.add(frame.f_lineno)
        return trace

    sys.settrace(trace)
    for name in names:
        for path in glob.glob(os.path.join(KEPT, name, "*")) + glob.glob(os.path.join(CORPUS, name, "*")):
            with open(path, "rb") as file:
                TARGETS[name].function(file.read())
    sys.settrace(None)
    for path, reached in paths.items():
        lines = lines_of_functions(path)
        share = 100 * len(reached & lines) / len(lines)
        print("%-26s %3.0f %% of %d lines" % (os.path.relpath(path, ROOT), share, len(lines)))


def lines_of_functions(path):
    with open(path) as file:
        waiting = [compile(file.read(), path, "exec")]
    lines = set()
    while waiting:
        code = waiting.pop()
        waiting += [each for each in code.co_consts if hasattr(each, "co_lines")]
        if code.co_flags & 2:  # CO_NEWLOCALS: a function, no module and no class
            lines.update(line for _, _, line in code.co_lines() if line and line != code.co_firstlineno)
    return lines


# -- the command line -----------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=FRAMES, metavar="N", help="so many in all (%d)" % FRAMES)
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this; may be given again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (one a processor)")
    parser.add_argument("--coverage", action="store_true", help="which lines the inputs reach that were found so far")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--shrink", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        return fuzz(arguments.part[0], int(arguments.part[1]))
    if arguments.shrink:
        return shrink(*arguments.shrink)
    names = arguments.target or list(TARGETS)
    if arguments.coverage:
        return coverage(names)
    if subprocess.call([sys.executable, "-c", "import atheris"], stderr=subprocess.DEVNULL):
        print("atheris is not installed for this Python: pip install atheris (CPython 3.11 to 3.13 on Linux)")
        return 2
    shares = sum(TARGETS[name].share for name in names)
    runs = [Run(name, max(1, arguments.frames * TARGETS[name].share // shares)) for name in names]
    try:
        fuzz_all(runs, arguments.jobs)
    except KeyboardInterrupt:
        print("ended early")  # the processes have had the same signal
    report(runs)
    return 1 if any(run.findings for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
