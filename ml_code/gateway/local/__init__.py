"""ONNX Runtime or MLflow in this process as the backend."""
