"""The way of a deployment: snapshot, materialize, load, ready, smoke, canary, commit, and back."""
