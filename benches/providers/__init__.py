"""Everything that can be measured, by name."""

from __future__ import annotations

from .base import Provider
from .dense import DENSE
from .own import OWN
from .peers import PEERS

ALL: tuple[Provider, ...] = (*OWN, *DENSE, *PEERS)
PROVIDERS = {provider.name: provider for provider in ALL}
# A backend by name measures again what `contrastile` chose, or what nobody should choose.
DEFAULT = tuple(name for name in PROVIDERS if not name.startswith("contrastile-"))

__all__ = ["DEFAULT", "PROVIDERS", "Provider"]
