"""Training of a classifier and its registration in MLflow, as ONNX."""
