"""KServe's v2 protocol: routes, what a request may hold, tensors."""
