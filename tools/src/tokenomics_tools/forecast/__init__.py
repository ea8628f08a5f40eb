"""How good the month-end forecast is, on simulated months: ``python -m tokenomics_tools.forecast``."""
