"""Attention: dense, and the kernels of TPUs (splash) and GPUs (cuDNN)."""
