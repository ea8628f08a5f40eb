"""gRPC adapters: requests to use cases, answers to messages."""
