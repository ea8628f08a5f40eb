"""The chassis' streams on real Kafka and PostgreSQL."""
