"""What every test can use, and how Hypothesis runs in all of them."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.stack"]

# Timing lives in benchmarks: here it would measure the machine (on a fresh clone the first text drawn waits
# two seconds for Hypothesis' own table of characters).
settings.register_profile("tokenomics", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tokenomics")
