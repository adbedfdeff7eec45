"""Tells people what happened: on MLflow's pages, by web hooks, and which model they may have meant."""
