"""The environment in a file of its own (word_counts.py), here to count the words of text files.

    python3 environment_file.py FILE [FILE ...]
"""
from __future__ import print_function

import os
import sys

from minimalcluster import MasterNode

here = os.path.dirname(os.path.abspath(__file__))
paths = [os.path.abspath(path) for path in sys.argv[1:]] or [os.path.join(here, name) for name in os.listdir(here)]

with MasterNode(PORT=0) as master:
    master.start_master_server()
    master.load_envir(os.path.join(here, "word_counts.py"))
    master.register_target_function("count_words")
    master.load_args(sorted(path for path in set(paths) if not os.path.isdir(path)))
    # One file that cannot be read shall not hide the others: its exception is its result.
    results = master.execute(on_error="return")

for path, words in results.items():
    print("%9s  %s" % (words if not isinstance(words, Exception) else "failed", path))
    if isinstance(words, Exception):
        print("%9s  %s" % ("", words))
print("%9d  in all" % sum(words for words in results.values() if not isinstance(words, Exception)))
