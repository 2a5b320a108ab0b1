"""What the backends of GPUs share: which forms there are, and the order of their launches."""
