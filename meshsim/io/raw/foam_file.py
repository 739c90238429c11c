"""One OpenFOAM file: header, lists and dictionaries, ASCII or binary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from meshsim.io.raw import Tree, content, expect

COMPONENTS = {"scalar": 1, "vector": 3, "symmTensor": 6, "tensor": 9, "sphericalTensor": 1}
_COMMENT = re.compile(rb"/\*.*?\*/|//[^\n]*", re.S)
_SPACE = re.compile(rb"(?:\s+|/\*.*?\*/|//[^\n]*)+", re.S)
_WORD = re.compile(rb'"[^"]*"|[^\s{}();\[\]"]+')
_HEADER = re.compile(rb"FoamFile\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_INNER = re.compile(rb"\w+\s*\{[^{}]*\}")
COLLATED = "decomposedBlockData"  # the class of a file of several processors


@dataclass
class File:
    """The content of a file after its header.

    Arguments:
        data: all bytes.
        at: where the body starts.
        header: the entries of FoamFile.
    """

    data: bytes
    at: int
    header: dict[str, str]

    @property
    def binary(self) -> bool:
        """True if lists stand as bytes."""
        return self.header.get("format", "ascii") == "binary"

    def dtype(self, kind: str) -> np.dtype:
        """How labels ("i") or scalars ("f") stand in a binary file."""
        arch = self.header.get("arch", "")
        found = re.search(r"label=(\d+)" if kind == "i" else r"scalar=(\d+)", arch)
        bits = int(found[1]) if found else {"i": 32, "f": 64}[kind]
        expect(bits in (32, 64), f"{bits}-bit numbers are not supported")
        return np.dtype(("<" if "MSB" not in arch else ">") + kind + str(bits // 8))

    def space(self) -> None:
        """Go past white space and comments."""
        found = _SPACE.match(self.data, self.at)
        if found:
            self.at = found.end()

    def peek(self) -> bytes:
        """The next byte that is no space."""
        self.space()
        return self.data[self.at : self.at + 1]

    def word(self) -> str:
        """The next word."""
        self.space()
        found = _WORD.match(self.data, self.at)
        expect(found, "ends early" if self.at >= len(self.data) else "is damaged")
        assert found is not None
        self.at = found.end()
        return found[0].decode("utf-8", "replace")

    def skip(self, mark: bytes) -> None:
        """Go past a mark that must come next."""
        got = self.peek()
        expect(got == mark, f"expected {mark.decode()!r}, got {got.decode('latin-1')!r}")
        self.at += 1

    def count(self) -> int:
        """The length that stands before a list."""
        word = self.word()
        expect(word.isdigit(), f"expected the length of a list, got {word[:30]!r}")
        n = int(word)
        expect(n <= 64 * len(self.data), f"ends early (a list of {n})")
        return n

    def numbers(self, kind: str, components: int = 1) -> np.ndarray:
        """A list of labels ("i") or of scalars, vectors … ("f"): (n,) or (n, components)."""
        got = self.peek()
        n = -1 if got == b"(" else self.count()
        out_type = np.int64 if kind == "i" else np.float64
        shape = (-1,) if components == 1 else (-1, components)
        if self.peek() == b"{":
            end = self._find(b"}")
            value = self._words(self.data[self.at + 1 : end])
            self.at = end + 1
            expect(len(value) == components, "a uniform list with a wrong value")
            return np.tile(value.astype(out_type), (n, 1)).reshape(shape)
        if n == 0 and self.peek() != b"(":
            return np.zeros((0, components), out_type).reshape((0, *shape[1:]))
        self.skip(b"(")
        if self.binary and n >= 0:
            dtype = self.dtype(kind)
            size = n * components * dtype.itemsize
            expect(self.at + size <= len(self.data), f"ends early (expected a list of {n})")
            flat = np.frombuffer(self.data, dtype, n * components, self.at)
            self.at += size
            self.skip(b")")
            return flat.astype(out_type).reshape((n, *shape[1:]))
        end = self._close()
        flat = self._words(self.data[self.at : end])
        self.at = end + 1
        expect(n < 0 or len(flat) == n * components, f"{len(flat)} numbers in a list of {n}")
        expect(len(flat) % components == 0, "a list with a wrong number of components")
        return flat.astype(out_type).reshape((len(flat) // components, *shape[1:]))

    def _words(self, text: bytes) -> np.ndarray:
        if b"/" in text:
            text = _COMMENT.sub(b" ", text)
        words = text.translate(_BRACES).split()
        return np.array(words).astype(np.float64) if words else np.zeros(0)

    def _find(self, mark: bytes) -> int:
        end = self.data.find(mark, self.at)
        expect(end >= 0, f"ends early (no {mark.decode()})")
        return end

    def _close(self) -> int:
        """The bracket that closes the list of numbers, vectors or tensors we are in."""
        at = self.at
        while True:
            end = self.data.find(b")", at)
            expect(end >= 0, "ends early (a list without its end)")
            inner = self.data.find(b"(", at, end)
            if inner < 0:
                return end
            at = end + 1

    def faces(self) -> tuple[np.ndarray, np.ndarray]:
        """A list of faces: flat points and offsets."""
        if self.header.get("class") == "faceCompactList":
            offsets = self.numbers("i")
            nodes = self.numbers("i")
            good = len(offsets) > 0 and offsets[0] == 0 and (np.diff(offsets) >= 0).all()
            expect(good and offsets[-1] == len(nodes), "has damaged offsets")
            return nodes, offsets
        n = self.count()
        if n == 0:
            return np.zeros(0, np.int64), np.zeros(1, np.int64)
        self.skip(b"(")
        if self.binary:
            return self._binary_faces(n)
        end = self.data.rfind(b")")
        expect(end > self.at, "ends early (a list without its end)")
        flat = self._words(self.data[self.at : end]).astype(np.int64)
        starts, at = [], 0
        values = flat.tolist()
        for _ in range(n):
            expect(at < len(values), f"ends early (expected {n} faces)")
            starts.append(at)
            expect(values[at] >= 0, "a face with a negative number of points")
            at += values[at] + 1
        expect(at == len(values), f"{len(values)} numbers in {n} faces (expected {at})")
        keep = np.ones(len(flat), bool)
        keep[starts] = False
        offsets = np.concatenate([[0], np.cumsum(flat[starts])]).astype(np.int64)
        return flat[keep], offsets

    def _binary_faces(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        parts = [self.numbers("i") for _ in range(n)]
        sizes = [len(part) for part in parts]
        flat = np.concatenate(parts)
        return flat, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def dictionary(self, closed: bool = False) -> Tree:
        """Entries up to the closing bracket (or the end): words, dictionaries, `Values`."""
        out: Tree = {}
        while True:
            got = self.peek()
            if got == b"":
                expect(not closed, "ends early (a dictionary without its end)")
                return out
            if got == b"}":
                self.at += 1
                return out
            if got in (b";", b")"):
                self.at += 1
                continue
            key = self.word().strip('"')
            if key.startswith("#"):
                self.at = (self.data.find(b"\n", self.at) + 1) or len(self.data)
                out.setdefault("#", []).append(key)
            elif self.peek() == b"{":
                self.at += 1
                out[key] = self.dictionary(True)
            else:
                out[key] = self.value()

    def value(self) -> Any:
        """What follows a keyword, up to the semicolon."""
        words: list[str] = []
        while True:
            got = self.peek()
            expect(got, "ends early (an entry without its semicolon)")
            if got == b";":
                self.at += 1
                return " ".join(words)
            if got == b"}":  # the semicolon was forgotten
                return " ".join(words)
            if got in (b"(", b"[", b")", b"]", b"{"):
                self.at += 1
                words.append(got.decode())
                continue
            word = self.word()
            found = re.match(r"List<(\w+)>", word)
            if found and found[1] in COMPONENTS:
                values = self.numbers("f", COMPONENTS[found[1]])
                if self.peek() == b";":
                    self.at += 1
                return values
            words.append(word)


_BRACES = bytes.maketrans(b"(){}", b"    ")


def load(path: str) -> File:
    """Open an OpenFOAM file."""
    data = content(path)
    found = head(data)
    expect(found, "has no FoamFile header")
    assert found is not None
    expect(
        found[0].get("class") != COLLATED,
        "holds blocks of several processors: read the case that its folder processors… lies in",
    )
    return File(data, found[1], found[0])


def head(data: bytes) -> tuple[dict[str, str], int] | None:
    """The entries of FoamFile, without dictionaries among them, and where it ends."""
    found = _HEADER.search(data, 0, 20_000)
    if found is None:
        return None
    header: dict[str, str] = {}
    text = _INNER.sub(b"", _COMMENT.sub(b"", found[1])).decode("utf-8", "replace")
    for line in text.split(";"):
        key, _, value = line.strip().partition(" ")
        if key:
            header[key] = value.strip().strip('"')
    return header, found.end()


def uniform(text: Any) -> np.ndarray | None:
    """The value of an entry "uniform 1" or "uniform (1 0 0)"; None if it is none."""
    if not isinstance(text, str):
        return None
    words = text.replace("(", " ").replace(")", " ").split()
    if len(words) < 2 or words[0] != "uniform":
        return None
    try:
        values = np.array(words[1:]).astype(np.float64)
    except ValueError:
        return None
    return values if len(values) in (1, 3, 6, 9) else None
