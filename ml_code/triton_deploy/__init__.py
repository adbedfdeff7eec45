"""Deploy the model version that an MLflow alias names to NVIDIA Triton, or change nothing.

The steps are the methods of ``deploy.deployer.Deployer``; ``cli`` is the command line, ``dags/`` the
Airflow side. Importing the package imports no client library.
"""
