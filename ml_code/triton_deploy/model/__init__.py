"""The contents of a model: the ONNX file, Triton's configuration for it, and the inputs of its smoke test."""
