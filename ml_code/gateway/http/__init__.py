"""One request and its answer: body, API key, turn and memory, log line and metrics."""
