"""One machine's part. With ``wire``, ``payload`` and ``brain`` it is all that a machine needs that only works."""
from __future__ import absolute_import, division, print_function
