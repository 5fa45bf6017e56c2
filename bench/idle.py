"""What a cluster costs that has nothing to do: CPU time as a share of one core.

    python3 bench/idle.py [SECONDS]

A master in this process; an idle node with two worker processes as a process of its own, which
has run a small job before; then the same with this machine joined to the master itself.
The 2017 minimalcluster took 1.4 % of a core; the aim is less than 0.2 %.
"""

import glob
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from processes import below, words  # noqa: E402

from minimalcluster import MasterNode  # noqa: E402

NODE = """
import sys
sys.path.insert(0, sys.argv[1])
from minimalcluster import WorkerNode
WorkerNode("127.0.0.1", int(sys.argv[2]), sys.stdin.readline().strip(), 2, quiet=True).join_cluster()
"""
SETTLE_SECONDS = 1.0


def cpu_seconds(pid):
    """CPU time of a process: to the nanosecond from its threads' schedstat, else in ticks from stat."""
    try:
        threads = glob.glob("/proc/%d/task/*/schedstat" % pid)
        if threads:
            return sum(int(words(path)[0]) for path in threads) / 1e9
        fields = words("/proc/%d/stat" % pid, after=")")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0  # it has ended


def measure(seconds):
    """Share of a core, of this process and of all below it, over that time."""
    time.sleep(SETTLE_SECONDS)
    others = below(os.getpid())
    before, own_before = {pid: cpu_seconds(pid) for pid in others}, time.process_time()
    began = time.monotonic()
    time.sleep(seconds)
    lasted = time.monotonic() - began
    own = time.process_time() - own_before
    rest = {pid: cpu_seconds(pid) - before[pid] for pid in others}
    return 100 * own / lasted, {pid: 100 * spent / lasted for pid, spent in rest.items()}


def run_small_job(master):
    master.load_envir("def double(x):\n    return 2 * x\n", from_file=False)
    master.register_target_function("double")
    master.load_args(range(1000))
    assert master.execute()[999] == 1998


def report(title, seconds):
    own, rest = measure(seconds)
    if not os.path.isdir("/proc/self"):
        print("%-44s master %.3f %% (other processes: only on Linux)" % (title, own))
        return
    total = own + sum(rest.values())
    print(
        "%-44s %.3f %% of a core: master's process %.3f, %d others %.3f" % (title, total, own, len(rest), total - own)
    )


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    print("idle for %g s each, Python %s" % (seconds, sys.version.split()[0]))
    with MasterNode(PORT=0) as master:
        master.start_master_server(if_join_as_worker=False)
        report("master alone", seconds)
        node = subprocess.Popen([sys.executable, "-c", NODE, ROOT, str(master.PORT)], stdin=subprocess.PIPE)
        try:
            node.stdin.write(master.AUTHKEY.encode("ascii") + b"\n")
            node.stdin.close()
            run_small_job(master)
            report("master, and a node with 2 worker processes", seconds)
        finally:
            master.shutdown()
            node.wait(30)
    with MasterNode(PORT=0) as master:
        master.start_master_server()
        run_small_job(master)
        report("master that works itself", seconds)


if __name__ == "__main__":
    main()
