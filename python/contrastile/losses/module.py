"""The nn.Module twin of a loss: its options, remembered."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Any, ClassVar

from torch import Tensor, nn

from .options import LossOutput


class Loss(nn.Module):
    """A loss that remembers its options; ``forward`` may override them call by call.

    A tensor option that is an ``nn.Parameter`` (a learnable temperature) becomes a parameter of
    the module; another tensor becomes a buffer.
    """

    function: ClassVar[Callable[..., LossOutput]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show the options of the loss as those of the module, in ``help`` and in editors."""
        super().__init_subclass__(**kwargs)
        cls.__signature__ = Signature(list(_options(cls.function).values()))  # type: ignore[attr-defined]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        allowed = _options(self.function)
        self.options: dict[str, Any] = {}
        for name, value in options.items():
            if name not in allowed:
                raise TypeError(
                    f"{type(self).__name__}: no option {name!r}; "
                    f"its options are {', '.join(sorted(allowed))}"
                )
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            elif isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                self.options[name] = value

    def forward(self, *args: Tensor, **overrides: Any) -> LossOutput:
        """The loss of these tensors, with the module's options and these on top."""
        options = {**self.options, **self._tensors()}
        if overrides.keys() & {"temperature", "logit_scale"}:
            options.pop("temperature", None)
            options.pop("logit_scale", None)
        return type(self).function(*args, **{**options, **overrides})

    def _tensors(self) -> dict[str, Tensor]:
        """Options that are tensors; one that serves twice counts twice."""
        return {
            **dict(self.named_parameters(remove_duplicate=False)),
            **dict(self.named_buffers(remove_duplicate=False)),
        }

    def extra_repr(self) -> str:
        """The options, as they would be typed."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


def _options(function: Callable[..., LossOutput]) -> dict[str, Parameter]:
    parameters = signature(function).parameters
    return {n: p for n, p in parameters.items() if p.kind is Parameter.KEYWORD_ONLY}
