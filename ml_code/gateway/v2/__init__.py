"""KServe's v2 protocol: routes, checks of requests, tensors."""
