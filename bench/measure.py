"""One peer in a fresh process: runs the workloads that are named, and prints the figures of each as a line of JSON.

    python bench/measure.py PEER WORKERS quick|full WORKLOAD ...

The workload "start" only has a first result and ends.
"""

import contextlib
import json
import os
import sys
import threading
import time

import peers
import tasks

MARK = "@figures "
#: A pool whose worker process was killed may not end: then this process does.
CLOSE_SECONDS = 15.0


def say(workload, figures):
    sys.__stdout__.write(MARK + json.dumps({"workload": workload, "figures": figures}) + "\n")
    sys.__stdout__.flush()


def first_result(peer):
    try:
        return peer.submit(tasks.double, 21)()
    except peers.CannotError:
        return peer.map(tasks.double, [21])[0]


def run(peer, workload, quick):
    try:
        return workload.run(peer, workload.quick if quick else workload.full)
    except peers.CannotError:
        return {"note": "has no such call"}
    except Exception as error:
        return {"note": "%s: %s" % (type(error).__name__, str(error).split("\n")[0][:200])}


def main():
    name, workers, size, *names = sys.argv[1:]
    with peers.ALL[name](int(workers)) as peer:
        assert first_result(peer) == 42
        say("start", {"moment": time.monotonic()})
        if names != ["start"]:
            import workloads

            with contextlib.suppress(peers.CannotError):
                peer.map(tasks.double, range(1000))  # every process is up
            for each in names:
                say(each, run(peer, workloads.ALL[each], size == "quick"))
            threading.Timer(CLOSE_SECONDS, os._exit, (0,)).start()
    if names != ["start"]:
        os._exit(0)


if __name__ == "__main__":
    main()
