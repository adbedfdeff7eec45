"""Training of models, their export to ONNX, and their registration in MLflow."""
