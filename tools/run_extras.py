"""Run the tests of what the extras bring, and of other people's programs: joblib, Dask, Ray, MPI, notebooks, emcee ...

    python3 tools/run_extras.py                 on 3.11 and 3.13, whichever are found
    python3 tools/run_extras.py --only 3.13

Each Python gets an environment of its own in build/, which downloads some 300 MB the first time. A test that
is skipped because a library of ours is missing counts as a failure here: in ``make test`` it does not.
MPI itself (mpiexec, and a library that mpi4py can load) is the machine's; without it that one test is skipped by name.
"""

import argparse
import os
import re
import subprocess
import sys

import run_tests

VERSIONS = ["3.11", "3.13"]
EXTRAS = "dev,joblib,dask,ray,mpi"
#: Programs that take a pool, and what programs replace parts of Python with.
PROGRAMS = ["dynesty", "emcee", "nautilus-sampler", "scipy", "eventlet", "freezegun", "gevent"]
TESTS = [
    "tests.engines.test_engines", "tests.faces.test_joblib_backend", "tests.test_notebook", "tests.test_examples",
    "tests.faces.test_pool", "tests.test_programs", "tests.test_patched",
]  # fmt: skip
LIMIT_SECONDS = 900.0


def installed(interpreter, root):
    """The interpreter of an environment that has the extras."""
    folder = os.path.join(root, "extras-" + interpreter.minor)
    python = os.path.join(folder, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))
    if not os.path.exists(python):
        subprocess.run([interpreter.path, "-m", "venv", folder], check=True)
    wanted = [*PROGRAMS, "--editable", "%s[%s]" % (run_tests.ROOT, EXTRAS)]
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted], check=True)
    return run_tests.ask(python)


def missing(log):
    """Tests that were skipped for want of a library which the extras should have brought."""
    with open(log, encoding="utf-8", errors="replace") as file:
        return re.findall(r"^.*skipped ['\"].*not (?:both )?installed.*$", file.read(), re.MULTILINE)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", metavar="X.Y", help="this version only (default: %s)" % ", ".join(VERSIONS)
    )
    wanted = parser.parse_args().only or VERSIONS
    root = os.path.join(run_tests.ROOT, "build")
    logs = os.path.join(root, "logs-extras")
    found = [each for each in run_tests.find_interpreters() if each.minor in wanted]
    absent = sorted(set(wanted) - {each.minor for each in found})
    if absent:
        print("not on this machine: Python " + ", ".join(absent))
    environments = []
    for interpreter in found:
        print("Python %s: installing minimalcluster[%s]" % (interpreter.release, EXTRAS), flush=True)
        environments.append(installed(interpreter, root))
    # One at a time: Dask, Ray and MPI count on the whole machine.
    outcomes = run_tests.run_all(environments, TESTS, True, 1, LIMIT_SECONDS, logs)
    lacking = [line for each in environments for line in missing(os.path.join(logs, "tests-%s.log" % each.minor))]
    for line in lacking:
        print("not installed by the extras: " + line)
    return 0 if outcomes and not lacking and not any(each.failed for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
