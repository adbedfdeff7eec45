"""Triton as the backend: connections, the candidate, the predecessor."""
