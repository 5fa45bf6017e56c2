"""This project beside its peers: the same work in turn, in fresh processes, round after round.

    python3 bench/runner.py                   everything, 5 rounds: 45 to 60 minutes on 2 quiet cores
    python3 bench/runner.py --quick           3 rounds, smaller sizes, engines once: no more than 12 minutes
    python3 bench/runner.py --only trips,submits --peers Executor,ProcessPool --rounds 7

Peers are installed into an environment of their own in .bench/; one that cannot be installed is named and skipped.
--python uses one that has them already. The figures are written to .bench/results.json; then ``report.py`` prints the
tables, and the ratios that the project wants to reach.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time

import measure
import peers
import report
import workloads

FOLDER = os.path.join(peers.ROOT, ".bench")
#: The package of 2017 has this project's name: it is not installed beside it.
OLD = os.path.join(FOLDER, "2017")
#: The project's extra for the measuring itself: this project is not installed there, but used as it is here.
NEEDED = ["cloudpickle", "matplotlib", "numpy"]
#: By whether the run is quick.
LIMIT_SECONDS = {True: 60.0, False: 240.0}
KILL_SECONDS = {True: 20.0, False: 40.0}
MINUTES = {True: 11.0, False: 60.0}

#: In a quick run the faces that are made of the executor show what differs: their own way there and back.
FACES = {"Pool": ["trips", "submits", "map_e4", "map_e6"], "Execute": ["trips", "map_e4", "map_e6"]}
#: What peers that need milliseconds for a task are asked for.
OF_ENGINES = {
    True: ["start", "trips", "submits", "map_e4", "payloads", "heavy", "factorize"],
    False: ["start", *workloads.ALL],
}
#: Only here the nodes are several: each has one worker process, and one node is slow.
OF_NODES = ["uneven"]
#: Peers of which the project wants to reach a ratio run in each round; others need fewer for a picture.
IN_EACH_ROUND = ["Executor", "Pool", "Execute", "OverTcp", "OverTls", "NodeEach", "StandardPool", "ProcessPool"]
SOMETIMES = ["Mpi"]


# -- the peers' environment --------------------------------------------------------------------------


def environment():
    """The interpreter of the environment, and the peers that could not be installed."""
    folder = os.path.join(FOLDER, "venv")
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        say("installing the peers into " + os.path.relpath(folder))
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install(python, *NEEDED)
    for peer in peers.ALL.values():
        if peer.module and not has(python, peer.module):
            install(python, *peer.packages)
    return python


def install(python, *packages):
    """False if pip could not."""
    words = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    return subprocess.run(words, stderr=subprocess.DEVNULL, check=False).returncode == 0


def has(python, module):
    return subprocess.run([python, "-c", "import " + module], stderr=subprocess.DEVNULL, check=False).returncode == 0


def missing(python, names):
    """{peer: why it is skipped}."""
    if "Of2017" in names and not os.path.isdir(OLD):
        install(python, "--no-deps", "--target", OLD, *peers.Of2017.packages)
    lacking = [name for name in names if peers.ALL[name].module and not has(python, peers.ALL[name].module)]
    if "Of2017" in names and not os.path.isdir(OLD):
        lacking.append("Of2017")
    return dict.fromkeys(lacking, "cannot be installed here")


# -- one fresh process -------------------------------------------------------------------------------


class Runs:
    """Runs peers, and keeps their figures: [figure][peer][round], and notes: [peer][workload]."""

    def __init__(self, python, workers, quick, minutes):
        self._python, self._workers, self._quick = python, workers, quick
        self._until = time.monotonic() + 60 * minutes
        self.figures, self.notes = {}, {}

    def is_late(self):
        return time.monotonic() > self._until

    def run(self, name, names, number):
        """The figures of one fresh process of a peer."""
        words = [*peers.ALL[name].command(self._python, self._workers), measure.__file__, name, str(self._workers)]
        limit = (KILL_SECONDS if names == ["kill"] else LIMIT_SECONDS)[self._quick] + 10.0 * (len(names) - 1)
        # Files, not pipes: a peer's worker processes may outlive it, and would keep a pipe open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            began = time.monotonic()
            process = subprocess.Popen(
                [*words, "quick" if self._quick else "full", *names], stdout=out, stderr=errors,
                env=self._variables(name), start_new_session=True,
            )  # fmt: skip
            try:
                process.wait(limit)
                error = ""
            except subprocess.TimeoutExpired:
                error = "hangs: ended after %.0f s" % (time.monotonic() - began)
            ended = time.monotonic() - began
            kill_group(process)
            process.wait()
            self._keep(name, names, number, read(out), error or read(errors), began, ended)

    def _variables(self, name):
        own = OLD if name == "Of2017" else peers.ROOT
        paths = [os.path.dirname(measure.__file__), own]
        programs = os.pathsep.join([os.path.dirname(self._python), os.environ.get("PATH", "")])  # Parsl's, and MPI's
        return dict(
            os.environ, PATH=programs, PYTHONPATH=os.pathsep.join(paths), OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore"
        )

    def _keep(self, name, names, number, out, error, began, ended):
        said = [json.loads(line[len(measure.MARK) :]) for line in out.splitlines() if line.startswith(measure.MARK)]
        by_workload = {each["workload"]: each["figures"] for each in said}
        start = by_workload.pop("start", None)
        if names == ["start"] and start:
            by_workload["start"] = {"start_seconds": start["moment"] - began, "exit_seconds": ended}
        for each in names:
            figures = by_workload.get(each, {"note": (error.strip().splitlines() or ["no answer"])[-1][:200]})
            for figure, value in figures.items():
                if figure in ("note", "killed_outcome"):
                    self.notes.setdefault(name, {})[each] = value
                else:
                    rounds = self.figures.setdefault(figure, {}).setdefault(name, {})
                    rounds[number] = value


def read(file):
    file.seek(0)
    return file.read()


def kill_group(process):
    """Whatever the peer has started and left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass  # there is none


def does(name, workload, quick):
    peer = peers.ALL[name]
    if name == "NodeEach":
        return workload in OF_NODES
    if quick and name in FACES:
        return workload in FACES[name]
    if not peer.slow:
        return workload not in peer.without
    of_engines = workload == "start" or workloads.ALL[workload].engines
    return of_engines and workload in OF_ENGINES[quick] and workload not in peer.without


def takes_part(name, workload, number, quick):
    """Whether this round is one of the peer's, for this workload."""
    if workload == "kill" and peers.ALL[name] not in peers.OURS:
        return number == 0  # a pool that hangs takes the whole time limit, and will hang again
    if name in IN_EACH_ROUND:
        return True
    if name in SOMETIMES or not (quick or peers.ALL[name].slow):
        return number < (2 if quick else 3)
    return number < (1 if quick else 2)


def in_turn(runs, names, wanted, rounds, quick):
    """Each workload on each peer in turn, round after round; then the peers that are slow to start, each with all of
    its workloads in one process. What does not fit into the time limit is left out: the last rounds first."""
    quickly = [name for name in names if not peers.ALL[name].slow]
    for number in range(rounds):
        turn = quickly[number % len(quickly) :] + quickly[: number % len(quickly)] if quickly else []
        for workload in wanted:
            for name in turn:
                if does(name, workload, quick) and takes_part(name, workload, number, quick) and not runs.is_late():
                    say("round %d: %-12s %s" % (number + 1, workload, name))
                    runs.run(name, [workload], number)
    for number in range(rounds):
        for name in filter(lambda each: peers.ALL[each].slow, names):
            of_it = [each for each in wanted if does(name, each, quick) and takes_part(name, each, number, quick)]
            if not of_it:
                continue
            if runs.is_late():
                runs.notes.setdefault(name, {})["all"] = "was left out: the time was over"
                continue
            say("round %d: %s: %s" % (number + 1, name, ", ".join(of_it)))
            if "start" in of_it:
                runs.run(name, ["start"], number)
                of_it.remove("start")
            if of_it:
                runs.run(name, of_it, number)


# -- the whole ---------------------------------------------------------------------------------------


def say(text):
    print(text, file=sys.stderr, flush=True)


def versions(python, names):
    """{package: version} of what was measured."""
    wanted = sorted({package.split("[")[0] for name in names for package in peers.ALL[name].packages} | {"numpy"})
    program = (
        "import importlib.metadata as m, json, sys\nfound = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = m.version(name)\n    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    words = [python, "-c", program, *(each for each in wanted if "==" not in each)]
    return json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)


def machine(python, workers):
    release = subprocess.run([python, "-V"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[1]
    try:
        with open("/proc/cpuinfo") as file:
            processor = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    system = "%s %s" % (platform.system(), platform.release())
    return {
        "processor": processor, "cores": os.cpu_count(), "system": system, "python": release, "workers": workers,
        "load": [round(each, 1) for each in os.getloadavg()],
    }  # fmt: skip


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, help="5; 3 in a quick run")
    parser.add_argument("--minutes", type=float, help="no round begins later: 60, 11 in a quick run")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="worker processes (one per processor)")
    parser.add_argument("--only", help="workloads, with commas: start, " + ", ".join(workloads.ALL))
    parser.add_argument("--peers", help="peers, with commas: " + ", ".join(peers.ALL))
    parser.add_argument("--python", help="an interpreter whose environment has the peers")
    parser.add_argument("--write", action="store_true", help="write the tables and the plot into docs/, too")
    return parser.parse_args()


def main():
    arguments = parsed()
    quick, began = arguments.quick, time.monotonic()
    rounds = arguments.rounds or (3 if quick else 5)
    wanted = arguments.only.split(",") if arguments.only else ["start", *workloads.ALL]
    names = arguments.peers.split(",") if arguments.peers else [*peers.ALL]
    python = arguments.python or environment()
    skipped = missing(python, names)
    names = [name for name in names if name not in skipped]
    for name, why in skipped.items():
        say("skipped: %s: %s" % (peers.ALL[name].name, why))
    runs = Runs(python, arguments.workers, quick, arguments.minutes or MINUTES[quick])
    about = machine(python, arguments.workers)
    try:
        in_turn(runs, names, wanted, rounds, quick)
    except KeyboardInterrupt:
        say("interrupted: what was measured so far follows")
    about["load after"] = [round(each, 1) for each in os.getloadavg()]
    about["minutes"] = round((time.monotonic() - began) / 60, 1)
    results = {
        "machine": about, "versions": versions(python, names), "rounds": rounds, "quick": quick,
        "skipped": skipped, "figures": runs.figures, "notes": runs.notes,
    }  # fmt: skip
    os.makedirs(FOLDER, exist_ok=True)
    with open(report.RESULTS, "w") as file:
        json.dump(results, file, indent=1)
    words = [python, report.__file__, *(["--write"] if arguments.write else [])]
    subprocess.run(words, check=False)  # with the peers' interpreter: it has matplotlib


if __name__ == "__main__":
    main()
