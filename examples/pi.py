"""Pi from a million random throws, on all processors of this machine.

    python3 pi.py [THROWS]
"""
from __future__ import division, print_function

import sys

from minimalcluster import MasterNode

ENVIRONMENT = """
from random import random

def throw(number):
    # The number only tells the throws apart: no two arguments may be equal.
    x, y = random(), random()
    return 1 if x * x + y * y < 1 else 0
"""

throws = int(sys.argv[1]) if len(sys.argv) > 1 else 10 ** 6

with MasterNode(PORT=0) as master:  # 0: any free port, since no other machine has to know it
    master.start_master_server()
    master.load_envir(ENVIRONMENT, from_file=False)
    master.register_target_function("throw")
    master.load_args(range(throws))
    results = master.execute()

print("%d throws: pi is roughly %f" % (throws, 4 * sum(results.values()) / throws))
