"""The environment that environment_file.py sends to the worker processes: an ordinary Python file.

It may import modules, define functions, classes and constants, and be tried without a cluster.
"""
import io
import re

WORD = re.compile(r"\w+", re.UNICODE)


def count_words(path):
    """How many words a text file has. Each node reads the file itself, so it must find it there."""
    with io.open(path, encoding="utf-8", errors="replace") as file:
        return sum(len(WORD.findall(line)) for line in file)
