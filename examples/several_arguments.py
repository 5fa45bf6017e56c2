"""A function of several arguments: each task gets one tuple, and takes it apart.

    python3 several_arguments.py
"""
from __future__ import print_function

from minimalcluster import MasterNode

ENVIRONMENT = """
def balance(task):
    amount, percent, years = task
    for _ in range(years):
        amount += amount * percent / 100.0
    return round(amount, 2)
"""

tasks = [(amount, percent, 10) for amount in (100, 1000) for percent in (1, 2.5, 4)]

with MasterNode(PORT=0) as master:
    master.start_master_server()
    master.load_envir(ENVIRONMENT, from_file=False)
    master.register_target_function("balance")
    master.load_args(tasks)
    results = master.execute()

for (amount, percent, years), balance in results.items():  # in the order of the tasks
    print("%5d at %s %% for %d years: %.2f" % (amount, percent, years, balance))
