"""PyTorch programs: exported, saved, run, turned into ONNX and into modules that train. Import these files late: they import torch."""
