"""An ONNX graph as a PyTorch module that trains: layers where the graph has them, functions for all else."""
