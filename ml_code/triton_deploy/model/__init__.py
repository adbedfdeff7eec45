"""What is inside a model: the ONNX file, Triton's configuration for it, and the inputs that it is tried with."""
