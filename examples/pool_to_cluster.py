"""From multiprocessing's Pool to a cluster: one line.

    python3 pool_to_cluster.py                      on this machine
    python3 pool_to_cluster.py PORT KEY_FILE        and on all that join:

    python3 -m minimalcluster node THIS_MACHINE:PORT --key-file KEY_FILE

If there is no KEY_FILE yet, it is made with a new key; copy it to the other machines.
"""
import sys

# from multiprocessing import Pool
from minimalcluster import Pool


def is_prime(number):
    if number < 2:
        return False
    return all(number % divisor for divisor in range(2, int(number**0.5) + 1))


if __name__ == "__main__":
    options = {}
    if len(sys.argv) > 2:
        options = {"host": "0.0.0.0", "port": int(sys.argv[1]), "key_file": sys.argv[2]}

    with Pool(**options) as pool:
        numbers = range(10**6, 10**6 + 20000)
        print(sum(pool.map(is_prime, numbers)), "primes from", numbers[0], "to", numbers[-1])

        for number, answer in zip(numbers, pool.imap(is_prime, numbers)):
            if answer:
                print("the first is", number)
                break

        later = pool.apply_async(is_prime, (10**12 + 39,))
        print("10^12 + 39 is prime:", later.get(timeout=60))
