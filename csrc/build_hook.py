"""Compiles the operators into the wheel where torch is at hand while it is built.

In an isolated build it is not: then the wheel is pure Python, carries the sources, and the library
is compiled on first use (see meshsim/native.py).
"""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuildHook(BuildHookInterface):
    """Hatchling calls `initialize` before it packs the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "standard" or importlib.util.find_spec("torch") is None:
            return
        root = Path(self.root)
        spec = importlib.util.spec_from_file_location("native", root / "meshsim" / "native.py")
        assert spec is not None and spec.loader is not None
        native = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(native)
        library = root / "build" / native.LIBRARY
        library.parent.mkdir(exist_ok=True)
        try:
            native.build(root / "csrc", library)
        except RuntimeError as error:
            self.app.display_warning(f"without compiled operators: {error}")
            return
        build_data["force_include"][str(library)] = f"meshsim/lib/{native.LIBRARY}"
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        # no CPython ABI in it, and of torch only the stable one
        build_data.update(pure_python=False, tag=f"py3-none-{platform}")
