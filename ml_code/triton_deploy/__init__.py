"""Take the model that an MLflow alias names to what NVIDIA Triton serves, or change nothing.

The steps are the methods of ``deployer.Deployer``; ``cli`` is the command line, ``dags/`` the Airflow side. Importing the
package imports no client library.
"""
