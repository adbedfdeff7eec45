"""What knows Airflow: the operators, triggers and tasks of which the DAGs are made."""
