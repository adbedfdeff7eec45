"""What keeps a repository well between deploys: reconcile, gc, the bake, status, a first set-up."""
