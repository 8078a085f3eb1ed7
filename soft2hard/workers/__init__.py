"""Processes of this machine, and Ray workers."""
