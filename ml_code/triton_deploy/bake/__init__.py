"""Bake: a release is watched on live traffic after its commit, and taken back by itself when it is bad."""
