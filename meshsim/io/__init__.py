"""Reading and writing meshes, series and samples: `read`, `write`, `losses`, `attach`.

Loaded when first used (PEP 562): the guarded child imports this package without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "read": "reading",
    "attach": "results",
    "write": "writing",
    "losses": "writing",
    "check_free": "to_foam",
    "format_of": "formats",
    "Format": "formats",
    "FORMATS": "formats",
}

if TYPE_CHECKING:
    from meshsim.io.formats import FORMATS, Format, format_of
    from meshsim.io.reading import read
    from meshsim.io.results import attach
    from meshsim.io.to_foam import check_free
    from meshsim.io.writing import losses, write

__all__ = ["FORMATS", "Format", "attach", "check_free", "format_of", "losses", "read", "write"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'meshsim.io' has no attribute {name!r}")
    return getattr(import_module(f"meshsim.io.{_HOMES[name]}"), name)
