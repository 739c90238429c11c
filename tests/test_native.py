"""What is said about compiled operators is what the dispatcher will do."""

import torch

import meshsim.ops.adjacency  # noqa: F401  defines all operators
from meshsim import native


def test_every_operator_is_listed():
    defined = {
        schema.name.removeprefix("meshsim::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("meshsim::")
    }
    assert defined == set(native.OPS) == set(native.active())


def test_a_loaded_kernel_is_reported(monkeypatch):
    monkeypatch.delenv("MESHSIM_NATIVE", raising=False)
    entry = native.active()["segment_mean"]
    assert entry["cpu"] == entry["cuda"] == "reference" and "no compiled kernels" in entry["why"]
    monkeypatch.setenv("MESHSIM_NATIVE", "0")
    assert "MESHSIM_NATIVE=0" in native.active()["segment_mean"]["why"]
    library = torch.library.Library("meshsim", "IMPL")
    library.impl("segment_mean", lambda x, rowptr, index=None: x[:0], "CPU")
    try:
        assert native.active()["segment_mean"] == {
            "cpu": "native",
            "cuda": "reference",
            "why": "compiled kernel loaded",
        }
    finally:
        library._destroy()
    assert native.active()["segment_mean"]["cpu"] == "reference"
