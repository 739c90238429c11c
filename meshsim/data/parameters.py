"""Parameters of a sample: from a JSON file, from CSV files beside its meshes, from its name."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meshsim.check import InputError, check_known, nearest, one_line
from meshsim.data.files import read_json


@dataclass(frozen=True)
class ParameterRule:
    """Where parameters are, beside the JSON file that a sample may always have.

    Arguments:
        csv: {file pattern: {parameter: column}, or None for all columns}: in the folder of each
            sample one file fits the pattern, with a header and one row of numbers.
        name: a regular expression for the sample's name; each named group is a number.
    """

    csv: dict[str, dict[str, str] | None] = field(default_factory=dict)
    name: str = ""

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> ParameterRule:
        """The rule of a configuration's table `parameters`.

        Raises:
            InputError: an unknown key, a value of the wrong kind.

        >>> ParameterRule.from_table({"csv": {"force_*.csv": ["cd"]}}).csv
        {'force_*.csv': {'cd': 'cd'}}
        """
        for key in table:
            check_known(key, ("csv", "name"), "key of `parameters`:")
        files, name = table.get("csv", {}), table.get("name", "")
        if not isinstance(files, Mapping):
            raise InputError(f"`parameters.csv`: expected {{file pattern: columns}}, got {files!r}")
        try:
            groups = re.compile(name).groupindex
        except (re.error, TypeError) as error:
            raise InputError(f"`parameters.name`: no regular expression: {error}") from error
        if name and not groups:
            raise InputError(
                f"`parameters.name`: expected named groups as in (?P<angle>-?[0-9.]+), got {name!r}"
            )
        return cls({pattern: _columns(pattern, said) for pattern, said in files.items()}, name)

    def files(self, folder: Path) -> dict[str, Path]:
        """{pattern: the file that fits it}.

        Raises:
            InputError: none or several fit.
        """
        if not self.csv:
            return {}
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        out = {}
        for pattern in self.csv:
            fits = [name for name in names if fnmatch(name, pattern)]
            if len(fits) != 1:
                found = f"several files fit {pattern!r}: {', '.join(fits)}"
                raise InputError(f"{folder}: {found if fits else f'no file fits {pattern!r}'}")
            out[pattern] = folder / fits[0]
        return out

    def gather(self, folder: Path, name: str) -> dict[str, Tensor]:
        """The parameters of one sample.

        Arguments:
            folder: of its CSV files.
            name: of the sample.

        Raises:
            InputError: a file or column is missing, a value is no number, the name does not fit,
                a parameter is given twice.
        """
        out: dict[str, Tensor] = {}
        for pattern, path in self.files(folder).items():
            row, wanted = read_row(path), self.csv[pattern]
            for label, column in (wanted or {key: key for key in row}).items():
                if column not in row:
                    raise InputError(f"{path}: no column {column!r}: {nearest(column, row)}")
                if label in out:
                    raise InputError(f"{path}: parameter {label!r} is in another file too")
                out[label] = _number(row[column], f"{path}: column {column!r}")
        if self.name:
            found = re.search(self.name, name)
            if found is None:
                raise InputError(f"sample {name!r}: `parameters.name` does not fit: {self.name}")
            for label, text in found.groupdict().items():
                if label in out:
                    raise InputError(f"sample {name!r}: parameter {label!r} is in a file too")
                if text is not None:
                    out[label] = _number(text, f"sample {name!r}: {label!r} in its name")
        return out


def read_row(path: Path) -> dict[str, str]:
    """{column: text} of a CSV file with a header and one row, blanks around both left out.

    Raises:
        InputError: it cannot be read, has no or several rows, or a row of another length.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(text.strip() for text in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot read: {one_line(error)}") from error
    if len(rows) != 2 or len(rows[0]) != len(rows[1]):
        lengths = ", ".join(str(len(row)) for row in rows[:4])
        raise InputError(
            f"{path}: expected a header and one row as long, got {len(rows)} lines ({lengths})"
        )
    return {key.strip(): text.strip() for key, text in zip(*rows, strict=True)}


def read_parameters(path: Path) -> dict[str, Tensor]:
    """Parameters of a sidecar file `{"parameters": {name: number or list of numbers}}`.

    A JSON file without "parameters" is somebody else's, and has none.

    Raises:
        InputError: not JSON, or a parameter that is no number.
    """
    document = read_json(path)
    table = document.get("parameters", {}) if isinstance(document, dict) else {}
    if not isinstance(table, dict):
        raise InputError(f"{path}: `parameters`: expected a table, got {type(table).__name__}")
    out = {}
    for name, value in table.items():
        try:
            out[name] = torch.tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            said = one_line(repr(value), 60)
            raise InputError(
                f"{path}: parameter {name!r}: expected a number or a list of numbers, got {said}"
            ) from error
        if not bool(torch.isfinite(out[name]).all()):
            raise InputError(f"{path}: parameter {name!r} is not finite")
    return out


def _columns(pattern: str, said: Any) -> dict[str, str] | None:
    if said == "all":
        return None
    if isinstance(said, list | tuple):
        said = {column: column for column in said}
    if not isinstance(said, Mapping) or not all(isinstance(c, str) for c in said.values()):
        raise InputError(
            f"`parameters.csv.{pattern}`: expected 'all', columns or {{parameter: column}},"
            f" got {said!r}"
        )
    return dict(said)


def _number(text: str, where: str) -> Tensor:
    """A number, or a vector as "(1.4 0 -0.3)"; a sign may stand apart from its digits."""
    vector = re.fullmatch(r"\((.*)\)", text)
    parts = vector[1].split() if vector else [re.sub(r"^([+-])\s+", r"\1", text)]
    try:
        values = torch.tensor([float(part) for part in parts], dtype=torch.float64)
    except ValueError:
        raise InputError(f"{where}: expected a number, got {text!r}") from None
    if not bool(torch.isfinite(values).all()) or not parts:
        raise InputError(f"{where}: expected a finite number, got {text!r}")
    return values if vector else values[0]
