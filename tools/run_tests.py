"""Run the tests under every Python found on this machine, some at a time, each with a hard time limit.

    python3 tools/run_tests.py                     all of them
    python3 tools/run_tests.py --only 2.7 --only 3.13
    python3 tools/run_tests.py --this              the running interpreter alone (CI on Windows)
    python3 tools/run_tests.py tests.brain.test_agent    some tests only

An interpreter needs nothing installed: the tests are plain ``unittest``. Interpreters come from
pyenv's folder, from PATH, and the running one; of each minor version the newest is taken. One
that hangs is told to print its stacks and ended, with all its processes. On Linux whatever a
test run leaves behind is ended too, named, and counts as a failure.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VERSIONS = ["2.7"] + ["3.%d" % minor for minor in range(6, 15)]
#: Begun in this order: the ends of the range fail first, and what takes longest is not begun last.
FIRST = ["3.13", "3.6", "2.7", "3.11"]
#: Every test runs under these; the minors between them leave out what takes longest (``--all`` does not).
FULL = ["2.7", "3.6", "3.11", "3.13", "3.14"]
LONG = [
    "test_attacks", "test_call_journal", "test_cli", "test_core", "test_fingerprints", "test_demo", "test_examples",
    "test_futures", "test_independent_client", "test_joblib_backend", "test_journal", "test_maps", "test_notebook",
    "test_orphans", "test_packaging", "test_pool", "test_processes", "test_readme", "test_script", "test_simulation",
]  # fmt: skip
MARKER = "MINIMALCLUSTER_TEST_RUN"
#: Tests mostly wait for processes to start and for limits to pass.
JOBS = max(2, min(4, (os.cpu_count() or 1) + 1))
STACKS_SECONDS = 5.0
GONE_SECONDS = 10.0
#: The test processes of this moment: Ctrl-C ends them, since they have sessions of their own.
running = []
_FRAMES_OF_ALL = re.compile(r"unittest/|<frozen|\S*/(threading|runpy)\.py:\d+ (_|run)")
_ASK = "import platform, sys; print('%s %d.%d.%d' % ((platform.python_implementation(),) + sys.version_info[:3]))"


class Interpreter:
    """One Python: its path and version."""

    def __init__(self, path, release):
        self.path, self.release = path, release
        self.minor = ".".join(release.split(".")[:2])
        self.key = tuple(int(number) for number in release.split("."))


class Outcome:
    """What one interpreter's run came to."""

    def __init__(self, interpreter):
        self.interpreter = interpreter
        self.ran = self.failed = self.skipped = 0
        self.notes = []
        self.seconds = 0.0

    @property
    def passed(self):
        return max(0, self.ran - self.failed - self.skipped)


# -- interpreters -------------------------------------------------------------------------------------


def find_interpreters():
    """The newest of each supported minor version."""
    found = {}
    for path in candidates():
        interpreter = ask(path)
        if interpreter is None or interpreter.minor not in VERSIONS:
            continue
        best = found.get(interpreter.minor)
        if best is None or interpreter.key >= best.key:  # the running one comes last: it has the test tools
            found[interpreter.minor] = interpreter
    return [found[minor] for minor in VERSIONS if minor in found]


def candidates():
    for root in pyenv_roots():
        versions = os.path.join(root, "versions")
        for name in sorted(os.listdir(versions)) if os.path.isdir(versions) else []:
            for parts in (("bin", "python"), ("python.exe",)):
                path = os.path.join(versions, name, *parts)
                if os.path.exists(path):
                    yield path
    for version in VERSIONS:
        path = shutil.which("python" + version)
        if path:
            yield path
    yield sys.executable


def pyenv_roots():
    roots = [os.environ.get("PYENV_ROOT"), os.path.expanduser("~/.pyenv")]
    if shutil.which("pyenv"):
        said = subprocess.run(["pyenv", "root"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        roots.insert(0, said.stdout.decode().strip())
    return list(dict.fromkeys(os.path.realpath(root) for root in roots if root))


def ask(path):
    """None when it does not run (a pyenv shim of a version that is not active), or is no CPython."""
    try:
        said = subprocess.run(
            [path, "-c", _ASK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = said.stdout.decode("ascii", "replace").split()
    return Interpreter(path, words[1]) if said.returncode == 0 and words[:1] == ["CPython"] else None


# -- one run ------------------------------------------------------------------------------------------


def selection(interpreter, everything):
    """Test modules of an in-between version; none means all."""
    if everything or interpreter.minor in FULL:
        return []
    modules = []
    for folder, _, files in sorted(os.walk(os.path.join(ROOT, "tests"))):
        package = os.path.relpath(folder, ROOT).replace(os.sep, ".")
        names = [name[:-3] for name in sorted(files) if name.startswith("test_") and name.endswith(".py")]
        modules += ["%s.%s" % (package, name) for name in names if name not in LONG]
    return modules


def run(interpreter, names, everything, limit_seconds, logs):
    outcome = Outcome(interpreter)
    log_path = os.path.join(logs, "tests-%s.log" % interpreter.minor)
    run_id = uuid.uuid4().hex
    began = time.monotonic()
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            command(interpreter, names or selection(interpreter, everything)),
            cwd=ROOT,
            env=environment(run_id),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            running.append(process)
            process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            outcome.notes.append("not done after %d s: ended" % limit_seconds)
            outcome.failed += 1
            end_with_stacks(process)
        finally:
            running.remove(process)
    left = left_behind(run_id)
    if left:
        outcome.notes += ["left behind: " + text for text in left]
        outcome.failed += 1
    outcome.seconds = time.monotonic() - began
    with open(log_path, "rb") as log:
        text = log.read().decode("utf-8", "replace")
    count(outcome, text, process.returncode)
    if outcome.failed:
        outcome.notes += stacks(text) + [tail(text)]
    return outcome


def environment(run_id):
    """Hundreds of processes start; where none may keep the bytecode, each compiles all it imports: 40 % of the time."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return dict(variables, **{MARKER: run_id})


def command(interpreter, names):
    flags = ["-X", "faulthandler"] if interpreter.key >= (3,) else []  # -X: worker processes do not inherit it
    options = ["-v", "--durations", "100"] if interpreter.key >= (3, 12) else ["-v"]
    tests = [*options, *names] if names else ["discover", *options, "-s", "tests", "-t", "."]
    return [interpreter.path, *flags, "-m", "unittest", *tests]


def end_with_stacks(process):
    """SIGABRT makes faulthandler print every thread's stack (3.x; 2.7 has none), then all is killed."""
    if hasattr(os, "killpg"):
        process.send_signal(signal.SIGABRT)
        try:
            process.wait(STACKS_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    end(process)


def end(process):
    """Kill it with its process group, so that a test's own processes go too."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except OSError:
        pass  # they are gone already
    process.wait()


def left_behind(run_id):
    """Processes that carry this run's mark although it has ended; they are killed."""
    until = time.monotonic() + GONE_SECONDS
    pids = marked(run_id)
    while pids and time.monotonic() < until:
        time.sleep(0.1)
        pids = marked(run_id)
    texts = []
    for pid in pids:
        try:
            with open("/proc/%d/cmdline" % pid, "rb") as file:
                words = file.read().decode("utf-8", "replace").split("\0")
            texts.append("process %d: %s" % (pid, " ".join(words)[:200]))
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    return texts


def marked(run_id):
    mark = ("%s=%s" % (MARKER, run_id)).encode("ascii")
    pids = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if name.isdigit():
            try:
                with open("/proc/%s/environ" % name, "rb") as file:
                    if mark in file.read():
                        pids.append(int(name))
            except OSError:
                pass  # it ended, or is another user's
    return pids


def count(outcome, text, code):
    """Add unittest's own summary ("Ran 12 tests", "FAILED (failures=1, skipped=2)") to the outcome."""
    ran = re.findall(r"^Ran (\d+) tests? in ", text, re.MULTILINE)
    verdict = re.findall(r"^(?:OK|FAILED)(?: \((.*)\))?$", text, re.MULTILINE)
    numbers = dict(re.findall(r"([a-z ]+)=(\d+)", verdict[-1])) if verdict else {}
    numbers = {name.strip(): int(number) for name, number in numbers.items()}
    outcome.ran = int(ran[-1]) if ran else 0
    outcome.skipped = numbers.get("skipped", 0)
    outcome.failed += sum(numbers.get(name, 0) for name in ("failures", "errors", "unexpected successes"))
    if not outcome.failed and (code or not outcome.ran):
        outcome.notes.append("exit code %s, %d tests" % (code, outcome.ran))
        outcome.failed = 1


def stacks(text):
    """Where each thread was when faulthandler was asked, innermost call first: a line each, for logs that are cut."""
    told = text.rpartition("Fatal Python error: Aborted")[2] if "Fatal Python error: Aborted" in text else ""
    found = []
    for part in told.split("(most recent call first):\n")[1:]:
        calls = re.findall(r'^  File "(.*)", line (\d+) in (.*)$', part.split("\n\n")[0], re.MULTILINE)
        calls = ["%s:%s %s" % ("/".join(path.split(os.sep)[-2:]), line, name) for path, line, name in calls]
        ours = [call for call in calls if not _FRAMES_OF_ALL.match(call)]
        found.append("a thread at " + " < ".join(ours or calls[:1]))
    return found


def tail(text, lines_max=400):
    """From the first failure's report on; without one, the last lines."""
    start = text.find("\n" + "=" * 70)
    lines = text[start:].splitlines() if start >= 0 else text.splitlines()[-80:]
    return "\n".join("    " + line for line in lines[:lines_max])


# -- all ----------------------------------------------------------------------------------------------


def run_all(interpreters, names, everything, jobs, limit_seconds, logs):
    os.makedirs(logs, exist_ok=True)
    waiting = sorted(interpreters, key=lambda each: FIRST.index(each.minor) if each.minor in FIRST else len(FIRST))
    outcomes = []
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                if not waiting:
                    return
                interpreter = waiting.pop(0)
            outcome = run(interpreter, names, everything, limit_seconds, logs)
            with lock:
                outcomes.append(outcome)
                print("%s: %s (%.0f s)" % (interpreter.release, totals([outcome]), outcome.seconds))
                for note in outcome.notes:
                    print("  " + note)
                sys.stdout.flush()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        del waiting[:]
        for process in tuple(running):  # each run takes its own out
            end(process)
        raise
    return sorted(outcomes, key=lambda outcome: outcome.interpreter.key)


def totals(outcomes):
    skipped = sum(each.skipped for each in outcomes)
    text = "%d passed, %d failed" % (sum(each.passed for each in outcomes), sum(each.failed for each in outcomes))
    return text + (", %d skipped" % skipped if skipped else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="test modules, classes or methods (default: all)")
    parser.add_argument("--only", action="append", metavar="X.Y", help="this version only; may be repeated")
    parser.add_argument("--this", action="store_true", help="the running interpreter only")
    parser.add_argument("--all", action="store_true", help="all tests under every version")
    parser.add_argument("--jobs", type=int, default=JOBS, help="interpreters at a time (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for an interpreter (default: %(default)s)")
    parser.add_argument("--logs", default=os.path.join(ROOT, "build", "logs"), help="folder of the full outputs")
    parser.add_argument("--list", action="store_true", help="show the interpreters and stop")
    arguments = parser.parse_args()

    interpreters = [ask(sys.executable)] if arguments.this else find_interpreters()
    if arguments.only:
        interpreters = [each for each in interpreters if each.minor in arguments.only]
    if arguments.list:
        for interpreter in interpreters:
            print("%-8s %s" % (interpreter.release, interpreter.path))
        return 0
    wanted = arguments.only or ([] if arguments.this else VERSIONS)
    absent = [version for version in wanted if version not in [each.minor for each in interpreters]]
    print("Tests under " + (", ".join(each.release for each in interpreters) or "no Python at all"))
    sys.stdout.flush()
    everything = arguments.all or arguments.this or bool(arguments.only)
    if not everything and not arguments.names:
        print("%s run all tests, versions between them all but %s" % (", ".join(FULL), ", ".join(LONG)))
        sys.stdout.flush()
    outcomes = run_all(interpreters, arguments.names, everything, arguments.jobs, arguments.limit, arguments.logs)
    print("")
    for outcome in outcomes:
        print("Python %-8s %4d tests: %s" % (outcome.interpreter.release, outcome.ran, totals([outcome])))
    if absent:
        print("not on this machine: Python " + ", ".join(absent))
    print(totals(outcomes))
    return 0 if outcomes and not any(outcome.failed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
