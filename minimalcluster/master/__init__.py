"""The master's part: the running cluster, its jobs, their journals, and the calls of the seed."""
from __future__ import absolute_import, division, print_function
