"""Keeps a repository healthy between deploys: reconcile, gc, the bake, status, and the first set-up."""
