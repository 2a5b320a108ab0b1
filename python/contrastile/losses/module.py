"""The nn.Module twin of a loss: its options, remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import fields
from inspect import Parameter, Signature, signature
from typing import Any, ClassVar

from torch import Tensor, nn

from .options import LossOutput, Options, check_names, check_own_options

SHARED = {field.name for field in fields(Options)} - {"caller"}
SCALES = ("temperature", "logit_scale")


class Loss(nn.Module):
    """A loss that remembers its options; ``forward`` may override them call by call.

    Options are attributes, to be read and set. One that is an ``nn.Parameter`` (a learnable
    temperature) is a parameter of the module; another tensor is a buffer.
    """

    function: ClassVar[Callable[..., LossOutput]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show the options of the loss, or what a subclass's own constructor takes."""
        super().__init_subclass__(**kwargs)
        if cls.__init__ is Loss.__init__:
            shown = list(_options(cls.function))
        else:
            shown = list(signature(cls.__init__).parameters.values())[1:]
        cls.__signature__ = Signature(shown)  # type: ignore[attr-defined]

    def __init__(self, *unnamed: Any, **options: Any) -> None:
        super().__init__()
        caller, known = type(self).__name__, list(_options(self.function))
        if unnamed:
            raise TypeError(
                f"{caller}: options are given by name, {caller}(temperature=0.07), and tensors "
                f"when the module is called; got {len(unnamed)} without a name"
            )
        check_names(caller, options, {option.name for option in known})
        check_own_options(caller, options)
        Options(caller, **{name: value for name, value in options.items() if name in SHARED})
        for option in known:
            value = options.get(option.name, option.default)
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(option.name, value)
            else:
                setattr(self, option.name, value)

    def forward(self, *args: Tensor, **overrides: Any) -> LossOutput:
        """The loss of these tensors, with the module's options and these on top."""
        # By the class: an attribute of the instance would not be pickled, nor is it a method.
        return type(self).function(*args, **self.options(overrides))

    def options(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The module's options, with these on top."""
        options = {option.name: getattr(self, option.name) for option in _options(self.function)}
        if overrides.keys() & set(SCALES):
            options |= dict.fromkeys(SCALES)
        return {**options, **overrides}

    def __deepcopy__(self, memo: dict[int, Any]) -> Loss:
        """A copy of the options, in the same group: a process group cannot be copied."""
        group = self.__dict__.get("group")
        if group is not None:
            memo[id(group)] = group
        copy = memo[id(self)] = type(self).__new__(type(self))
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return copy

    def extra_repr(self) -> str:
        """The options that were chosen, as they would be typed."""
        values = ((option, getattr(self, option.name)) for option in _options(self.function))
        return ", ".join(
            f"{option.name}={value!r}"
            for option, value in values
            if not isinstance(value, Tensor) and value != option.default
        )


def _options(function: Callable[..., LossOutput]) -> Iterator[Parameter]:
    parameters = signature(function).parameters.values()
    return (option for option in parameters if option.kind is Parameter.KEYWORD_ONLY)
