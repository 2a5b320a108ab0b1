"""Several problems over shared planes, in one walk over blocks."""
