"""Freed memory stays with the process, so that the next step finds it without page faults."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, torch
from meshsim.train.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(8_000_000)  # 32 MB, more than what glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
print(keep_freed_memory(), given_back, [faults() for _ in range(3)][-1])
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_freed_is_used_again():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    told, before, after = done.stdout.split()
    assert told == "True"
    assert int(before) > 1000 > 50 > int(after)
