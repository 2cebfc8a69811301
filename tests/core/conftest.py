"""How long hypothesis may search: briefly, and in CI always the same examples."""

import os

from hypothesis import settings

settings.register_profile("core", max_examples=60, stateful_step_count=30, deadline=None)
settings.register_profile("ci", settings.get_profile("core"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "core")
