"""The header of a classic netCDF file: how long the file must be.

The netCDF library reads zeros beyond the end of a file, so that a file cut short would pass.
"""

from __future__ import annotations

import os
import struct

from meshsim.io.raw import expect

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 1, 9: 2, 10: 8, 11: 8}  # bytes a value
DIMENSION, VARIABLE, ATTRIBUTE = 10, 11, 12


class Header:
    """Dimensions and the length of a classic netCDF file (CDF-1, CDF-2 or CDF-5).

    Arguments:
        path: an unpacked file that begins with "CDF".

    Raises:
        ValueError: it ends in its header.
    """

    def __init__(self, path: str):
        with open(path, "rb") as file:
            self.data = file.read(64 << 20)
        version = self.data[3] if len(self.data) > 3 else 0
        expect(self.data[:3] == b"CDF" and version in (1, 2, 5), "is no netCDF file")
        self.at = 4
        self.count = ">q" if version == 5 else ">i"
        self.offset = ">i" if version == 1 else ">q"
        try:
            self._parse()
        except (struct.error, UnicodeDecodeError):
            raise ValueError("ends early (in its netCDF header)") from None

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def _name(self) -> str:
        n = self._number(self.count)
        text = self.data[self.at : self.at + n]
        self.at += (n + 3) // 4 * 4
        return text.decode("utf-8", "replace")

    def _list(self, tag: int) -> int:
        """The length of a list that begins with a tag, or with a zero where it is absent."""
        found, n = self._number(">i"), self._number(self.count)
        expect(found == tag or (found == 0 and n == 0), "has a damaged netCDF header")
        return n

    def _skip_attributes(self) -> None:
        for _ in range(self._list(ATTRIBUTE)):
            self._name()
            kind, n = self._number(">i"), self._number(self.count)
            expect(kind in SIZES and n >= 0, "has a damaged netCDF header")
            self.at += (n * SIZES[kind] + 3) // 4 * 4

    def _parse(self) -> None:
        records = self._number(self.count)
        lengths = []
        self.dimensions: dict[str, int] = {}
        for _ in range(self._list(DIMENSION)):
            name, n = self._name(), self._number(self.count)
            lengths.append(n)
            self.dimensions[name] = n
        self._skip_attributes()
        self.length = 0
        one, begins, last = 0, [], 0
        for _ in range(self._list(VARIABLE)):
            self._name()
            ids = [self._number(self.count) for _ in range(self._number(self.count))]
            self._skip_attributes()
            kind = self._number(">i")
            self._number(self.count)  # its size in bytes, which is wrong for large variables
            begin = self._number(self.offset)
            good = kind in SIZES and all(0 <= i < len(lengths) for i in ids)
            expect(good, "has a damaged netCDF header")
            moving = bool(ids) and lengths[ids[0]] == 0
            size = SIZES[kind]
            for i in ids[1:] if moving else ids:
                size *= lengths[i]
            if moving:
                one += (size + 3) // 4 * 4
                begins.append(begin)
                last = max(last, begin + size)
            else:
                self.length = max(self.length, begin + size)
        if begins and records > 0:
            self.length = max(self.length, last + (records - 1) * one)


def check_length(path: str) -> None:
    """Raise `ValueError` if a classic netCDF file is cut short, or if it is none (nor HDF5)."""
    with open(path, "rb") as file:
        if file.read(8) == b"\x89HDF\r\n\x1a\n":
            return  # the HDF5 library checks that itself
    header, have = Header(path), os.path.getsize(path)
    expect(have >= header.length, f"ends early (expected {header.length} bytes, got {have})")
