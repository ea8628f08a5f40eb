"""Local stack, company simulator, demo and benchmarks: what surrounds the product and never ships with it."""
