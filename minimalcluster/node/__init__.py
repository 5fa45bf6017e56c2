"""One machine's part. A machine that only works for a master needs this folder, ``wire``, ``payload`` and ``brain``."""
from __future__ import absolute_import, division, print_function
