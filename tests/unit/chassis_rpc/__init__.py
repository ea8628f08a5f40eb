"""The chassis: settings, processes, telemetry and gRPC."""
