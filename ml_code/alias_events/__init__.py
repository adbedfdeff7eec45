"""Turns a moved alias in MLflow into a deploy in Airflow, by MLflow's webhook or by polling MLflow."""
