"""What a fair price is for an option on the average of a share's price: the same digits on every cluster.

    python3 monte_carlo.py [BLOCKS [WORKERS]]

Each block of paths has a random generator of its own, seeded with the block's number. So it does not matter where a
block runs, in which order, beside what, or whether it runs twice because a machine was lost. A generator that is
shared, or seeded once in each worker process, would give other digits on each cluster, and with each run.
"""
import random
import sys
from math import exp, fsum, sqrt

from minimalcluster import ClusterExecutor

SEED = 2026
PATHS = 500  # in a block
DAYS = 50
START, STRIKE, RATE, VOLATILITY = 100.0, 100.0, 0.03, 0.2
YEARS = DAYS / 250
FADE = exp(-RATE * YEARS)


def payoffs(block):
    """Sum, and sum of squares, of what the option pays on this block's paths."""
    # A text as the seed is hashed: neighbours have nothing in common, and every Python 3 makes the same numbers of it.
    generator = random.Random("%d/%d" % (SEED, block))
    drift = (RATE - VOLATILITY**2 / 2) / 250
    step = VOLATILITY / sqrt(250)
    paid = []
    for _ in range(PATHS):
        price = START
        total = 0.0
        for _ in range(DAYS):
            price *= exp(drift + step * generator.gauss(0, 1))
            total += price
        paid.append(FADE * max(0.0, total / DAYS - STRIKE))
    return fsum(paid), fsum(each * each for each in paid)


# A script's own functions are found by running the script in each worker process: this part is not for them.
if __name__ == "__main__":
    blocks = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else None

    with ClusterExecutor(workers) as ex:
        found = list(ex.map(payoffs, range(blocks)))

    count = blocks * PATHS
    mean = fsum(each for each, _ in found) / count
    deviation = sqrt((fsum(square for _, square in found) / count - mean**2) / count)
    print("%d paths: %.9f, give or take %.3f" % (count, mean, deviation))
