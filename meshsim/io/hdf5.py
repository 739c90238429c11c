"""HDF5 files written so that a full disk is an error, not a crash."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, BinaryIO


class Sink:
    """A file that remembers its first error and takes no more bytes after it.

    HDF5 tries again and again to write out what is left when a file is closed, and ends the
    process if it cannot (h5py 3.16): so it is told that all is well, and the error is raised when
    HDF5 has closed.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None
        self.size = 0

    def write(self, data: Any) -> int:
        """Write bytes, or pretend to."""
        n = memoryview(data).nbytes
        if self.error is None:
            try:
                self.file.write(data)
                self.size = max(self.size, self.file.tell())
            except OSError as error:
                self.error = error
        return n

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a place."""
        return self.file.seek(offset, whence) if self.error is None else offset

    def tell(self) -> int:
        """The place in the file."""
        return self.file.tell() if self.error is None else self.size

    def readinto(self, data: Any) -> int:
        """Read back bytes that were written before."""
        view = memoryview(data).cast("B")
        if self.error is None:
            return int(self.file.readinto(view))  # type: ignore[attr-defined]
        view[:] = bytes(len(view))
        return len(view)

    def read(self, n: int) -> bytes:
        """Read back bytes; h5py takes a file by its having `read`, but calls `readinto`."""
        data = bytearray(n)
        return bytes(data[: self.readinto(data)])

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file."""
        if self.error is None:
            try:
                return self.file.truncate(size)
            except OSError as error:
                self.error = error
        return size or 0

    def flush(self) -> None:
        """Pass on what is buffered."""
        if self.error is None:
            try:
                self.file.flush()
            except OSError as error:
                self.error = error


@contextlib.contextmanager
def hdf5(file: BinaryIO) -> Iterator[Any]:
    """An h5py file that is written to `file`, which is open for reading and writing ("w+b").

    Raises:
        OSError: writing failed, the disk is full.
    """
    import h5py

    sink = Sink(file)
    try:
        with h5py.File(sink, "w", track_order=True, libver=("earliest", "v110")) as opened:
            yield opened
    finally:
        if sink.error is not None:
            raise sink.error
