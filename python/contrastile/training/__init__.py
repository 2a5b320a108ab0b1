"""What a training loop puts around a loss."""

from .gradient_cache import GradientCache, gradient_cache
from .queue import MemoryQueue

__all__ = ["GradientCache", "MemoryQueue", "gradient_cache"]
