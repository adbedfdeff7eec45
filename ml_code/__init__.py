"""Training and deployment of models that NVIDIA Triton serves."""
