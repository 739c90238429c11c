import errno
import json
import os
import socket

import pytest

from meshsim.check import InputError, WorkError
from meshsim.data import files
from meshsim.data.files import Lock, read_json, write_json, writing_to


def test_a_lock_names_its_holder_and_goes_away(tmp_path):
    path = tmp_path / ".lock"
    with Lock(path, "this store"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
        with pytest.raises(WorkError, match=f"to this store .process {os.getpid()} on"):
            Lock(path, "this store").__enter__()
    assert not path.exists()


def test_a_lock_goes_away_after_an_error(tmp_path):
    with pytest.raises(ValueError), Lock(tmp_path / ".lock", "x"):
        raise ValueError
    with Lock(tmp_path / ".lock", "x"):
        pass


def test_a_lock_that_cannot_be_written_is_not_held(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(WorkError, match="No space left"):
        Lock(tmp_path / ".lock", "x").__enter__()
    monkeypatch.undo()
    assert not (tmp_path / ".lock").exists()
    with Lock(tmp_path / ".lock", "x"):
        pass


@pytest.mark.parametrize("content", ["", "garbage", '{"pid": 1, "host": "elsewhere"}', "[1]"])
def test_a_file_nobody_holds_is_stale_whatever_it_says(tmp_path, content):
    path = tmp_path / ".lock"
    path.write_text(content)
    with Lock(path, "x"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_without_locks_of_the_system_the_process_id_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_try_lock", lambda _: None)
    path = tmp_path / ".lock"
    here = socket.gethostname()
    for holder, free in (
        ({"pid": os.getpid(), "host": here}, False),
        ({"pid": 2**22 + 12345, "host": here}, True),  # beyond any process id
        ({"pid": os.getpid(), "host": here + "x"}, False),
        ({}, True),
    ):
        path.write_text(json.dumps(holder))
        if free:
            with Lock(path, "x"):
                pass
        else:
            with pytest.raises(WorkError):
                Lock(path, "x").__enter__()


@pytest.mark.parametrize(
    "code, kind",
    [
        (errno.ENOSPC, WorkError),
        (errno.EDQUOT, WorkError),
        (errno.EIO, WorkError),
        (errno.EACCES, InputError),
        (errno.EROFS, InputError),
    ],
)
def test_system_errors_become_one_line(tmp_path, code, kind):
    with pytest.raises(kind, match=os.strerror(code)) as error, writing_to(tmp_path):
        raise OSError(code, os.strerror(code), str(tmp_path / "x"))
    assert "\n" not in str(error.value)


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "x")))
    with pytest.raises(OSError):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_unreadable_json_is_an_input_error(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff{")
    with pytest.raises(InputError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"b\.json: cannot read"):
        read_json(tmp_path / "b.json")


def test_a_lock_on_a_file_that_was_replaced_meanwhile_does_not_count(tmp_path, monkeypatch):
    path, calls = tmp_path / ".lock", []
    original = files._try_lock

    def late(fd):
        if not calls:  # the last holder removes its file, a third process makes a new one
            path.unlink()
            path.write_text("")
        calls.append(fd)
        return original(fd)

    monkeypatch.setattr(files, "_try_lock", late)
    with Lock(path, "x"):
        assert json.loads(path.read_text())["pid"] == os.getpid() and len(calls) == 2
