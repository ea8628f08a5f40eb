"""PostgreSQL adapters: SQL and mapping, nothing else."""
