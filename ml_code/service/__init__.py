"""The common parts of services that answer HTTP: their logs, the limits of a connection, and uvicorn."""
