"""Memory, precision, metering, the optimizer."""
