"""Samples of one folder share a split, whatever the sources are called."""

import pytest

from meshsim.check import InputError
from meshsim.data import Store, preprocess
from tests import trajectory_files as files

RULE = {"split_by": "folder", "splits": {"train": 0.5, "test": 0.5}}


def together(splits):
    """{first letter of the names: splits they are in}."""
    out = {}
    for split, members in splits.items():
        for name in members:
            out.setdefault(name.rpartition("/")[2][0], set()).add(split)
    return out


@pytest.mark.parametrize("given", ["above", "each", "files", "globs"])
def test_samples_of_a_folder_share_a_split(tmp_path, write_flow, given):
    for case in "abcdef":
        for k in range(3):
            write_flow(tmp_path / "in" / f"run_{case}" / f"{case}{k}.npz", seed=k)
    folders = sorted((tmp_path / "in").iterdir())
    sources = {
        "above": [tmp_path / "in"],
        "each": folders,
        "files": [file for folder in folders for file in sorted(folder.iterdir())],
        "globs": [f"{tmp_path}/in/run_{case}/*.npz" for case in "abcdef"],
    }[given]
    preprocess(sources, tmp_path / "s", config=RULE)
    splits = Store(tmp_path / "s").splits
    found = together(splits)
    assert len(found) == 6 and all(len(where) == 1 for where in found.values())
    assert [len(members) for members in splits.values()] == [9, 9]
    # the rule knows the folders by their names
    named = {"split_by": "folder", "splits": {"test": ["run_b", "run_e"], "train": "rest"}}
    preprocess(sources, tmp_path / "t", config=named)
    assert {
        c for c, where in together(Store(tmp_path / "t").splits).items() if "test" in where
    } == {
        "b",
        "e",
    }


def test_folders_of_one_name_are_told_apart(tmp_path, write_flow):
    for case in "abcd":
        for k in range(2):
            write_flow(tmp_path / case / "out" / f"{case}{k}.npz", seed=k)
    sources = [tmp_path / case / "out" for case in "abcd"]
    rules = {"split_by": "folder", "splits": {"test": ["b/out"], "train": "rest"}}
    preprocess(sources, tmp_path / "s", config=rules)
    assert Store(tmp_path / "s").splits["test"] == ["b0", "b1"]


def test_files_directly_in_the_source_are_of_one_folder(tmp_path, write_flow):
    for k in range(4):
        write_flow(tmp_path / "in" / f"flow_{k}.npz", seed=k)
    with pytest.raises(InputError, match="all samples are in one folder, 'in'"):
        preprocess([tmp_path / "in"], tmp_path / "s", config={"split_by": "folder"})
    for k in range(2):
        write_flow(tmp_path / "in" / "other" / f"other_{k}.npz", seed=k)
    preprocess([tmp_path / "in"], tmp_path / "s", config=RULE)
    found = together(Store(tmp_path / "s").splits)
    assert len(found) == 2 and found["f"] != found["o"] and all(len(w) == 1 for w in found.values())


def test_two_splits_said_in_one_folder_are_an_error(tmp_path):
    folder = tmp_path / "in"
    for split in ("train", "test"):
        files.cylinder_flow(folder, split, 2)
    with pytest.raises(InputError, match="are in the splits 'test' and 'train'"):
        preprocess([folder], tmp_path / "s", config={"split_by": "folder"})
