"""Let this machine work for a master on another one, until that shuts down.

    python3 join.py HOST PORT KEY_FILE

The same from the command line: python3 -m minimalcluster node HOST:PORT --key-file KEY_FILE
"""
from __future__ import print_function

import logging
import multiprocessing
import sys

from minimalcluster import WorkerNode

if len(sys.argv) != 4:
    sys.exit("usage: join.py HOST PORT KEY_FILE")
host, port, key_file = sys.argv[1:]

logging.basicConfig(level=logging.INFO, format="%(message)s")  # says when it connects, waits or is lost
WorkerNode(host, int(port), nprocs=multiprocessing.cpu_count(), key_file=key_file).join_cluster()
print("the master has shut down")
