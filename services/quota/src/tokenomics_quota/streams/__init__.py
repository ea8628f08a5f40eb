"""Kafka adapters: records to domain values, domain values to events."""
