"""TFRecord files and the `tf.train.Example` messages in them, without TensorFlow."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from meshsim.io.raw import expect

HEAD, TAIL = 12, 4  # bytes: length and its checksum before the data, the data's checksum after
LISTS = {1: "bytes", 2: "float32", 3: "int64"}  # fields of the message `Feature`
Values = list[memoryview] | np.ndarray


def masked_crc(data: bytes | memoryview) -> int:
    """The checksum of a record: CRC-32C, turned by 15 bits, plus a constant.

    >>> hex(masked_crc(b"123456789"))
    '0xc78ab0e5'
    """
    from google_crc32c import value

    crc = value(bytes(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def index(path: str) -> tuple[list[tuple[int, int]], str]:
    """Where the records of a file are; only their heads are read.

    Returns:
        (first byte, length) of the data of each whole record, and what is wrong with what follows
        them, or "".
    """
    size = os.path.getsize(path)
    found: list[tuple[int, int]] = []
    at = 0
    with open(path, "rb") as file:
        while at < size:
            here = f"record {len(found)} (byte {at})"
            file.seek(at)
            head = file.read(HEAD)
            if len(head) < HEAD:
                return found, f"{here}: ends early (its head has {HEAD} bytes, got {len(head)})"
            (length,), (crc,) = struct.unpack("<Q", head[:8]), struct.unpack("<I", head[8:])
            if masked_crc(head[:8]) != crc:
                return found, f"{here}: its length is damaged (checksum), nothing after it is found"
            at += HEAD + length + TAIL
            if at > size:
                return found, f"{here}: ends early (expected {length} bytes of data and a checksum)"
            found.append((at - TAIL - length, length))
    return found, ""


def record(file: BinaryIO, number: int, place: tuple[int, int]) -> bytes:
    """The data of one record.

    Arguments:
        number: of the record, for messages.
        place: of it, from `index`.

    Raises:
        ValueError: the checksum does not fit.
    """
    start, length = place
    file.seek(start)
    data, tail = file.read(length), file.read(TAIL)
    here = f"record {number} (byte {start - HEAD})"
    expect(len(data) == length and len(tail) == TAIL, f"{here}: ends early")
    expect(masked_crc(data) == struct.unpack("<I", tail)[0], f"{here}: is damaged (checksum)")
    return data


def example(data: bytes | memoryview) -> dict[str, Values]:
    """The features of a `tf.train.Example`: byte strings, or numbers as float32 or int64.

    Raises:
        ValueError: it is no such message.

    >>> found = example(b"\\n\\x0c\\n\\n\\n\\x01a\\x12\\x05\\n\\x03\\n\\x01!")
    >>> {name: [bytes(value) for value in values] for name, values in found.items()}
    {'a': [b'!']}
    """
    out: dict[str, Values] = {}
    for features in _messages(memoryview(data), 1):
        for entry in _messages(features, 1):
            name, values = "", None
            for field, kind, part in _fields(entry):
                if field == 1 and kind == 2:
                    name = bytes(part).decode("utf-8", "replace")
                elif field == 2 and kind == 2:
                    values = _feature(part)
            expect(name and values is not None, "a feature without name or values")
            out[name] = values  # type: ignore[assignment]
    return out


def _feature(part: memoryview) -> Values:
    for field, kind, inside in _fields(part):
        if kind != 2 or field not in LISTS:
            continue
        if field == 1:
            return list(_messages(inside, 1))
        chunks: list[np.ndarray] = []
        for number, how, values in _fields(inside):
            if number != 1:
                continue
            if field == 2:
                chunks.append(np.frombuffer(values, "<f4"))
            else:
                chunks.append(_varints(values) if how == 2 else _varints(memoryview(values)))
        return np.concatenate(chunks or [np.zeros(0, LISTS[field])])
    return []


def _messages(part: memoryview, wanted: int) -> Iterator[memoryview]:
    return (inside for field, kind, inside in _fields(part) if field == wanted and kind == 2)


def _fields(part: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(number, wire type, bytes) of the fields of a protocol buffer message."""
    at, end = 0, len(part)
    while at < end:
        key, at = _varint(part, at)
        kind = key & 7
        start = at
        if kind == 0:
            _, at = _varint(part, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, start = _varint(part, at)
            at = start + length
        else:
            raise ValueError(f"no message of features (wire type {kind})")
        expect(at <= end, "a message of features ends early")
        yield key >> 3, kind, part[start:at]


def _varint(part: memoryview, at: int) -> tuple[int, int]:
    out = 0
    for i in range(10):
        expect(at + i < len(part), "a message of features ends early")
        byte = part[at + i]
        out |= (byte & 127) << (7 * i)
        if byte < 128:
            return out, at + i + 1
    raise ValueError("no message of features (a number of more than ten bytes)")


def _varints(part: memoryview) -> np.ndarray:
    out, at = [], 0
    while at < len(part):
        value, at = _varint(part, at)
        value &= (1 << 64) - 1
        out.append(value - (1 << 64) if value >> 63 else value)
    return np.array(out, np.int64)
