"""Import before `pyinfra_cli` and `pyinfra_testing`, which patch the standard library for gevent.

Event loops of other tests in the same process would not survive that.
"""

from unittest.mock import patch

import gevent.monkey

with patch.object(gevent.monkey, "patch_all"):
    import pyinfra_cli  # noqa: F401 - imported for its effect, which is now none
