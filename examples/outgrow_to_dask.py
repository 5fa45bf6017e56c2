"""How many primes are there? On this machine's processors, or, with one argument more, on a Dask cluster.

    python3 outgrow_to_dask.py
    python3 outgrow_to_dask.py tcp://SCHEDULER:8786

Only ENGINE differs; docs/outgrow.md says what else to know.
"""

import sys

from minimalcluster import MasterNode

ENVIRONMENT = """
def is_prime(n):
    return n > 1 and all(n % d for d in range(2, int(n ** 0.5) + 1))

def primes_from(start):
    return sum(is_prime(n) for n in range(start, start + 1000))
"""

ENGINE = None
if len(sys.argv) > 1:
    from distributed import Client

    from minimalcluster.engines import DaskEngine

    ENGINE = DaskEngine(Client(sys.argv[1]))

with MasterNode(PORT=0, engine=ENGINE) as master:
    master.start_master_server()
    print("on %s" % ", ".join("%s with %d workers" % worker[:2] for worker in master.list_workers()))
    master.load_envir(ENVIRONMENT, from_file=False)
    master.register_target_function("primes_from")
    master.load_args(range(0, 100000, 1000))
    print("%d primes below 100000" % sum(master.execute().values()))
