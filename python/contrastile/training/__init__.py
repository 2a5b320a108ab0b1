"""What a training loop puts around a loss."""

from .gradient_cache import GradientCache, gradient_cache

__all__ = ["GradientCache", "gradient_cache"]
