"""Programs of other people that take a pool or an executor: each gets from ours what it gets from the standard's."""
from __future__ import absolute_import, division, print_function

import importlib
import math
import sys
import unittest

PYTHON_3 = sys.version_info >= (3, 6)
if PYTHON_3:
    from minimalcluster import ClusterExecutor, Pool

WORKERS = 2


def likelihood(point):
    """Of a normal distribution's, around (0.5, 0.5); its integral over the unit square is nearly 0.01 x 2 pi."""
    return -0.5 * sum(((float(each) - 0.5) / 0.1) ** 2 for each in point)


def named_likelihood(point):
    return likelihood([point["x"], point["y"]])


def transform(unit):
    return unit


def bowl(point):
    return sum((float(each) - 1.0) ** 2 for each in point)


EVIDENCE = math.log(0.01 * 2 * math.pi)


@unittest.skipUnless(PYTHON_3, "faces are for Python 3")
class ProgramsTest(unittest.TestCase):
    def library(self, name):
        try:
            return importlib.import_module(name)
        except ImportError:
            self.skipTest("%s is not installed here" % name)

    def test_dynesty(self):
        dynesty = self.library("dynesty")
        numpy = self.library("numpy")
        # An executor has no number of processes that dynesty would look for: the standard's is given it too.
        for make, options in ((Pool, {}), (ClusterExecutor, {"queue_size": WORKERS})):
            with make(WORKERS) as pool:
                sampler = dynesty.NestedSampler(
                    likelihood, transform, 2, nlive=30, pool=pool, rstate=numpy.random.default_rng(1), **options
                )
                sampler.run_nested(print_progress=False, dlogz=1.0)
                self.assertAlmostEqual(EVIDENCE, sampler.results.logz[-1], delta=1.0)

    def test_nautilus(self):
        nautilus = self.library("nautilus")
        for make in (Pool, ClusterExecutor):
            with make(WORKERS) as pool:
                prior = nautilus.Prior()
                prior.add_parameter("x", dist=(0, 1))
                prior.add_parameter("y", dist=(0, 1))
                sampler = nautilus.Sampler(prior, named_likelihood, n_live=50, pool=pool, seed=1)
                sampler.run(verbose=False, n_eff=50, f_live=0.2)
                self.assertAlmostEqual(EVIDENCE, sampler.log_z, delta=1.0)

    def test_emcee(self):
        emcee = self.library("emcee")
        numpy = self.library("numpy")
        start = numpy.random.default_rng(1).uniform(0.4, 0.6, (8, 2))
        chains = []
        for make in (None, Pool, ClusterExecutor):
            numpy.random.seed(1)
            if make is None:
                chains.append(self.chain_of(emcee, start, None))
            else:
                with make(WORKERS) as pool:
                    chains.append(self.chain_of(emcee, start, pool))
        self.assertTrue(numpy.array_equal(chains[0], chains[1]) and numpy.array_equal(chains[0], chains[2]))

    def chain_of(self, emcee, start, pool):
        sampler = emcee.EnsembleSampler(8, 2, likelihood, pool=pool)
        sampler.run_mcmc(start, 20)
        return sampler.get_chain()

    def test_scipy(self):
        optimize = self.library("scipy.optimize")
        for make in (Pool, ClusterExecutor):
            with make(WORKERS) as pool:
                found = optimize.differential_evolution(
                    bowl, [(-3, 3), (-3, 3)], workers=pool.map, updating="deferred", seed=1, maxiter=40, tol=1e-6
                )
                self.assertLess(bowl(found.x), 1e-3)


if __name__ == "__main__":
    unittest.main()
