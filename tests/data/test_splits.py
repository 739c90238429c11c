import json
import math
import random

import pytest

from meshsim.check import InputError
from meshsim.data.splits import DEFAULT, check_files, read_files, split

NAMES = [f"flow_{k:03d}" for k in range(40)]


def test_fractions_divide_everything_once():
    out = split(NAMES, {"train": 0.5, "valid": 0.25, "test": 0.25})
    assert [len(out[k]) for k in ("train", "valid", "test")] == [20, 10, 10]
    assert sorted(name for members in out.values() for name in members) == NAMES


def test_order_of_names_does_not_matter_the_seed_does():
    shuffled = NAMES[:]
    random.Random(1).shuffle(shuffled)
    rule = {"train": 0.8, "test": 0.2}
    assert split(shuffled, rule) == split(NAMES, rule)
    assert split(NAMES, rule, seed=1) != split(NAMES, rule)


@pytest.mark.parametrize("n", range(1, 25))
def test_the_default_never_leaves_train_empty(n):
    out = split(NAMES[:n], DEFAULT)
    assert len(out["train"]) >= 1 and sum(map(len, out.values())) == n


def test_names_and_patterns_come_before_fractions():
    out = split(NAMES, {"test": ["flow_00*", "flow_039"], "train": 0.9, "valid": 0.1})
    assert out["test"] == [*NAMES[:10], "flow_039"]
    assert len(out["valid"]) == 3 and not set(out["train"]) & set(out["test"])
    assert split(["a", "b"], {"test": "b", "train": "rest"}) == {"test": ["b"], "train": ["a"]}
    assert split(["a", "b"], {"train": ["a"]}) == {"train": ["a"]}  # the rest is left out
    assert split(["a[1]"], {"train": ["a[1]"]}) == {"train": ["a[1]"]}  # a name, not a pattern
    # so that names, as folders called train and test give them, never take each other
    assert split(["a1", "a[1]"], {"x": ["a[1]"], "y": ["a1"]}) == {"x": ["a[1]"], "y": ["a1"]}
    assert split([], {"train": 1.0}) == {"train": []}


@pytest.mark.parametrize(
    "rule, message",
    [
        ({"train": 0.8, "test": 0.3}, "add up to 1"),
        ({"train": 1.5, "test": -0.5}, "add up to 1"),
        ({"train": "rest", "test": 0.5}, "add up to 1"),
        ({"test": ["flow_1000"]}, "no sample fits 'flow_1000'.*did you mean"),
        ({"a": ["flow_001"], "b": ["flow_0*"]}, "'flow_001' is in 'a' already"),
        ({"train": True}, "expected a fraction"),
        ({"train": math.nan, "test": 0.5}, r"`splits\.train`: expected a finite number, got nan"),
        (
            {"train": math.inf, "test": "rest"},
            r"`splits\.train`: expected a finite number, got inf",
        ),
        ({"train": 10**400, "test": "rest"}, r"`splits\.train`: expected a finite number"),
        ({"train": {"x": 1}}, "expected a fraction"),
    ],
)
def test_bad_rules(rule, message):
    with pytest.raises(InputError, match=message):
        split(NAMES, rule)


def test_files_list_members(tmp_path):
    """A name, the last part of one, or the number that it ends with; what is absent is left out."""
    lists = {
        "full_train": ["run_1", "in/run_7", 12, "run_99", 500],
        "full_test": ["2"],
        "none": ["x"],
    }
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "m.json").write_text(json.dumps(lists))
    names = ["in/run_1", "in/run_2", "in/run_7", "in/run_12", "in/run_120"]
    rule = {"train": {"json": "s/m.json", "key": "full_train"}, "valid": ["in/run_120"]}
    rule["test"] = {"json": "s/m.json", "key": "full_test"}
    check_files(rule)
    folders = [tmp_path / "elsewhere", tmp_path]
    found = read_files(rule, names, folders)
    assert found["train"] == ["in/run_1", "in/run_12", "in/run_7"]
    assert found["test"] == ["in/run_2"] and found["valid"] == ["in/run_120"]
    divided = split(names, found)
    assert sum(len(members) for members in divided.values()) == len(names)
    assert read_files({"train": 1.0}, names, []) == {"train": 1.0}
    for entry, message in (
        ({"json": "n.json", "key": "a"}, r"splits\.train: no file 'n\.json' in "),
        ({"json": "s/m.json", "key": "ful_train"}, "did you mean 'full_train'"),
        ({"json": "s/m.json", "key": "none"}, "none of the samples is listed, 'x' for one"),
    ):
        with pytest.raises(InputError, match=message):
            read_files({"train": entry}, names, folders)
    with pytest.raises(InputError, match="'run_7' fits samples a/run_7, b/run_7"):
        lists = {"k": ["run_7"]}
        (tmp_path / "two.json").write_text(json.dumps(lists))
        read_files({"x": {"json": "two.json", "key": "k"}}, ["a/run_7", "b/run_7"], folders)
    for text in ("[1]", '{"k": 3}', '{"k": [1.5]}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match="expected"):
            read_files({"x": {"json": "bad.json", "key": "k"}}, names, folders)
    for entry, message in (({"jsn": "a", "key": "b"}, "did you mean 'json'"), ({"json": "a"}, "x")):
        with pytest.raises(InputError, match=message):
            check_files({"x": entry})
