"""gRPC for every service: identity, one merged interceptor, rich errors, health, operations."""
