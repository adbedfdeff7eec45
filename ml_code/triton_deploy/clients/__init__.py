"""Clients of the servers: MLflow, the artifact stores, Triton, Prometheus and the gateways."""
