"""The engine: streams stats over blocks of the scores, and their gradients in bounded strips."""
