"""The command line, without Kafka or a service."""
