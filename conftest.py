"""Hypothesis profiles, and what is collected.

Profiles: `fast` by default, `ci` when CI is set; HYPOTHESIS_PROFILE names one. What imports an engine is collected in
the environment that has the engines (`make test-engines`).
"""

import os

from hypothesis import settings

# Deadlines measure the machine, not the code.
settings.register_profile("fast", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "fast"))

# Classes of regularizers, which tests import by the module's own name; a second copy of them would be refused.
collect_ignore = ["tests/user_terms.py"]
collect_ignore += [] if os.environ.get("OPTDECODE_TEST_ENGINES") else ["tests/engines", "python/optdecode/integrations"]
