"""``python -m minimalcluster``"""
from __future__ import absolute_import, division, print_function

import sys

from .command.cli import main

if __name__ == "__main__":
    sys.exit(main())
