"""Where the time of one round trip goes: python bench/hops.py [round trips]

Notes the time at each hop of ``submit(f, x).result()``, in the program and in a worker process (one clock for both, so
Linux), and prints the medians of the quickest tenth and of the middle tenth. The notes themselves take 1 to 2 us each.
"""

import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from minimalcluster import ClusterExecutor
from minimalcluster.faces.calls import Calls
from minimalcluster.master.cluster import Cluster
from minimalcluster.wire.connection import Connection

WARM_UP = 300
#: The method at whose begin a hop is noted.
HOPS = {
    "the loop has the call": (Cluster, "_grew"),
    "the loop writes the grant": (Connection, "write"),
    "the loop reads the result": (Connection, "_receive"),
    "the loop delivers it": (Calls, "deliver"),
}
ORDER = [
    "submit has returned", "the loop has the call", "the loop writes the grant", "the task runs",
    "the loop reads the result", "the loop delivers it", "result has returned",
]  # fmt: skip


def clock(_):
    return time.perf_counter()


def noting(kind, name, hop, notes):
    """Let the method note the time before it does its work."""
    real = getattr(kind, name)

    def noted(self, *arguments):
        notes[hop] = time.perf_counter()
        return real(self, *arguments)

    setattr(kind, name, noted)


def main(count):
    notes, rows = {}, []
    for hop, (kind, name) in HOPS.items():
        noting(kind, name, hop, notes)
    with ClusterExecutor(2) as executor:
        for number in range(WARM_UP + count):
            notes.clear()
            began = time.perf_counter()
            future = executor.submit(clock, number)
            submitted = time.perf_counter()
            run = future.result()
            row = dict(notes, **{ORDER[0]: submitted, ORDER[3]: run, ORDER[-1]: time.perf_counter()})
            if number >= WARM_UP and len(row) == len(ORDER):
                rows.append({hop: 1e6 * (moment - began) for hop, moment in row.items()})
    rows.sort(key=lambda row: row[ORDER[-1]])
    tenth = max(1, len(rows) // 10)
    quickest, middle = rows[:tenth], rows[(len(rows) - tenth) // 2 :][:tenth]
    print("%-28s %14s %14s   us since the call of submit" % ("", "quickest tenth", "middle tenth"))
    for hop in ORDER:
        medians = [statistics.median(row[hop] for row in part) for part in (quickest, middle)]
        print("%-28s %14.0f %14.0f" % (hop, *medians))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
