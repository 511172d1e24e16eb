"""Imported by processes of tests that open many stores: which schema MLflow expects is found out once.

MLflow asks all of its migration scripts again for every store it opens, which takes as long as a stand-in run. They do not change meanwhile, and
every store is still compared with the answer.
"""

import functools

from mlflow.store.db import utils

utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)
utils._get_latest_schema_revision()
