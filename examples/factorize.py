"""The prime factors of many large numbers: each task takes some milliseconds, so more machines help.

    python3 factorize.py [HOW_MANY]                    on all processors of this machine
    python3 factorize.py HOW_MANY HOST PORT KEY_FILE   and on every machine that joins (see join.py)

HOST is this machine's address as the others see it, or 0.0.0.0. If there is no KEY_FILE yet, it is made with a new
key; copy it to the other machines.
"""
from __future__ import print_function

import sys

from minimalcluster import MasterNode

ENVIRONMENT = """
def factorize(n):
    factors = []
    p = 2
    while p * p <= n:
        while n % p == 0:
            factors.append(p)
            n //= p
        p += 1 if p == 2 else 2
    if n > 1:
        factors.append(n)
    return factors
"""

how_many = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
numbers = [999999999999 + 2 * n for n in range(how_many)]

if len(sys.argv) > 2:
    host, port, key_file = sys.argv[2:]
    master = MasterNode(host, int(port), key_file=key_file)
else:
    master = MasterNode(PORT=0)

with master:
    master.start_master_server()
    master.load_envir(ENVIRONMENT, from_file=False)
    master.register_target_function("factorize")
    master.load_args(numbers)
    results = master.execute()
    for worker in master.list_workers():
        print("%s, process %d: %d tasks" % (worker.hostname, worker.pid, worker.tasks_done))

for number, factors in list(results.items())[:10]:
    print("%d = %s" % (number, " x ".join(str(factor) for factor in factors)))
print("%d numbers, of which %d are prime" % (len(results), sum(len(factors) == 1 for factors in results.values())))
