"""What compiled kernels are like, seen without a GPU; in a checkout, not part of the wheel."""
