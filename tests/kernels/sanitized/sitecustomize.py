"""With this folder on PYTHONPATH, every Python process uses the compiled module at FIELDFORGE_MODULE (`make sanitize`).

An installed module would win over any other on the path, in the children that tests start too; so this one is there
before anyone asks.
"""

import importlib.util
import os
import sys

spec = importlib.util.spec_from_file_location("fieldforge.kernels._cpu", os.environ["FIELDFORGE_MODULE"])
assert spec is not None
assert spec.loader is not None
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["fieldforge.kernels._cpu"] = module
