"""What callers of AI models install. It knows the gRPC contract and no service's code."""

from tokenomics_client.lease import Draw, Lease, Refusal, steady

__all__ = ["Draw", "Lease", "Refusal", "steady"]
