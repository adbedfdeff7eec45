"""One request and its answer: the connection, the body, who may ask, what is counted."""
