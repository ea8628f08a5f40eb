"""The local stack, on real Kafka and PostgreSQL."""
