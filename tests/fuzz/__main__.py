"""Give a target the inputs in files again: ``python3 -m tests.fuzz TARGET FILE ...``. All bytes of a file are the input."""
from __future__ import absolute_import, division, print_function

import argparse
import sys

from tests.fuzz import files
from tests.fuzz.targets import TARGETS


def main():
    # type: () -> int
    parser = argparse.ArgumentParser(prog="python3 -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("file", nargs="+")
    arguments = parser.parse_args()
    try:
        for path in arguments.file:
            with open(path, "rb") as file:
                count = TARGETS[arguments.target].function(file.read())
            print("%s: %d frames, and no rule is broken" % (path, count))
    finally:
        files.remove_folder()
    return 0


if __name__ == "__main__":
    sys.exit(main())
