"""An alias that is moved in MLflow becomes a deploy in Airflow, by MLflow's webhook or by Airflow's own looking."""
