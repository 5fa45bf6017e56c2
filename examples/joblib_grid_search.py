"""scikit-learn's grid search on a cluster: two lines more than without one.

    pip install 'minimalcluster[joblib]' scikit-learn      here and on every node
    python3 joblib_grid_search.py [PORT KEY_FILE]

With a port and a key file (made if it is not there; copy it), other machines may help, also while it runs:

    python3 -m minimalcluster node THIS_MACHINE:PORT --key-file KEY_FILE

Without them this machine's processors do the work.
"""
import sys

from joblib import parallel_config
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from minimalcluster import register_joblib_backend

options = {}
if len(sys.argv) > 2:
    options = {"address": ("0.0.0.0", int(sys.argv[1])), "key_file": sys.argv[2]}

digits, labels = load_digits(return_X_y=True)
grid = {"C": [0.1, 1, 10], "gamma": [0.0001, 0.001, 0.01]}
search = GridSearchCV(SVC(), grid, cv=4)

register_joblib_backend()
with parallel_config(backend="minimalcluster", **options):
    search.fit(digits[:800], labels[:800])

print("%d models fitted" % (len(search.cv_results_["params"]) * search.n_splits_))
print("best: C=%(C)g, gamma=%(gamma)g" % search.best_params_)
print("%.1f %% of the digits are read rightly" % (100 * search.best_score_))
