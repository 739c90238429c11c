"""Parameters from CSV files and names."""

import pytest
import torch

from meshsim.check import InputError
from meshsim.data.options import check_options
from meshsim.data.parameters import ParameterRule, read_row


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "force_1.csv").write_text("Cd, Cl,cor\r\n 0.3, - 0.05 ,(1.4 0 -0.3)\r\n\r\n")
    (tmp_path / "force_all_1.csv").write_text("Cd,Cl\n0.25,1e-2\n")
    return tmp_path


def test_columns_become_parameters(folder):
    rule = ParameterRule.from_table(
        {"csv": {"force_[0-9]*.csv": "all", "force_all_*.csv": {"cd_all": "Cd"}}}
    )
    found = rule.gather(folder, "run_1")
    assert {name: x.tolist() for name, x in found.items()} == {
        "Cd": 0.3, "Cl": -0.05, "cor": [1.4, 0.0, -0.3], "cd_all": 0.25
    }  # fmt: skip
    assert all(x.dtype is torch.float64 for x in found.values())
    some = ParameterRule.from_table({"csv": {"force_all_*.csv": ["Cl"]}})
    assert {k: float(v) for k, v in some.gather(folder, "").items()} == {"Cl": 0.01}
    assert ParameterRule().gather(folder, "run_1") == {}


def test_names_hold_numbers(tmp_path):
    rule = ParameterRule.from_table({"name": r"_U(?P<inflow>[\d.]+)(?:_a(?P<angle>-?\d+))?$"})
    assert {k: float(v) for k, v in rule.gather(tmp_path, "x_U3.5_a-4").items()} == {
        "inflow": 3.5,
        "angle": -4.0,
    }
    assert set(rule.gather(tmp_path, "x_U3.5")) == {"inflow"}
    with pytest.raises(InputError, match=r"sample 'x': `parameters\.name` does not fit"):
        rule.gather(tmp_path, "x")


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        ({"moment*.csv": "all"}, r"no file fits 'moment\*\.csv'"),
        ({"force_*.csv": "all"}, "several files fit"),
        ({"force_1.csv": ["cd"]}, r"force_1\.csv: no column 'cd': did you mean 'Cd'"),
        ({"force_1.csv": ["Cd"], "force_all_1.csv": ["Cd"]}, "'Cd' is in another file too"),
    ],
)
def test_what_a_folder_lacks_is_named(folder, csv, message):
    with pytest.raises(InputError, match=message) as error:
        ParameterRule.from_table({"csv": csv}).gather(folder, "run_1")
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a header and one row as long, got 0 lines"),
        ("a,b\n1\n", r"got 2 lines \(2, 1\)"),
        ("a\n1\n2\n", "got 3 lines"),
        ("a\nfast\n", "column 'a': expected a number, got 'fast'"),
        ("a\nnan\n", "column 'a': expected a finite number"),
        ("a\n()\n", "column 'a': expected a finite number"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    rule = ParameterRule.from_table({"csv": {"a.csv": "all"}})
    with pytest.raises(InputError, match=message):
        rule.gather(tmp_path, "")
    with pytest.raises(InputError, match="cannot read"):
        read_row(tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"cvs": {}}, "did you mean 'csv'"),
        ({"csv": []}, "parameters.csv"),
        ({"csv": {"a.csv": 3}}, r"parameters\.csv\.a\.csv"),
        ({"name": "("}, "no regular expression"),
        ({"name": "a(.)"}, "expected named groups"),
    ],
)
def test_bad_rules_are_named(table, message):
    with pytest.raises(InputError, match=message):
        check_options({"parameters": table})
