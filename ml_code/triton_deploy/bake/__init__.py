"""Old names of modules, for one release: Airflow's database has them."""
