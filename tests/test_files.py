from __future__ import annotations

import errno
import multiprocessing
import os

import pytest

from wsigen.errors import OutputError
from wsigen.files import atomic_path, free_bytes, make_folder, only_process, output_error, write_bytes


def test_write_bytes_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_bytes(path, b"first")
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failure_inside_keeps_the_old_file(tmp_path, failure):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def interrupted():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise failure

    with pytest.raises(failure):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_nothing_has_the_final_name_before_the_end(tmp_path):
    path = tmp_path / "a"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"data")
        assert not path.exists()
    assert path.read_bytes() == b"data"


def test_disk_full_names_path_space_and_fix(tmp_path):
    with pytest.raises(OutputError) as caught, atomic_path(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    text = str(caught.value)
    assert str(tmp_path / "a") in text
    assert "no space left" in text
    assert "iB free" in text
    assert "make room" in text
    assert "\n" not in text


def test_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="choose another folder"):
        make_folder(tmp_path / "file" / "deeper")
    with pytest.raises(OutputError, match="choose another name"):
        make_folder(tmp_path / "file")


def test_folder_in_the_way_of_a_file(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError, match="choose another name"):
        write_bytes(tmp_path / "a", b"data")
    assert (tmp_path / "a").is_dir()


def test_no_permission_is_explained(tmp_path):
    error = PermissionError(errno.EACCES, "Permission denied")
    assert "choose a folder that you may write to" in str(output_error(tmp_path, error))


def test_unknown_reason_is_told_as_it_is(tmp_path):
    assert "odd thing" in str(output_error(tmp_path, OSError("odd thing")))


def test_free_bytes_of_a_path_that_does_not_exist_yet(tmp_path):
    free = free_bytes(tmp_path / "a" / "b" / "c")
    assert free is not None
    assert 0 < free <= os.statvfs(tmp_path).f_frsize * os.statvfs(tmp_path).f_blocks


def _hold(folder, entered, leave):
    with only_process(folder, "busy"):
        entered.set()
        leave.wait(30)


def test_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("forkserver")
    entered, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "work", entered, leave))
    other.start()
    assert entered.wait(30)
    with pytest.raises(OutputError, match=r"work: busy") as caught, only_process(tmp_path / "work", "busy"):
        pass
    assert caught.value.path == tmp_path / "work"
    other.kill()
    other.join()
    with only_process(tmp_path / "work", "busy"):
        assert [file.name for file in (tmp_path / "work").iterdir()] == ["lock"]


def test_lock_in_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another"), only_process(tmp_path / "file", "busy"):
        pass


def test_lock_is_let_go_after_an_error(tmp_path):
    with pytest.raises(KeyError), only_process(tmp_path, "busy"):
        raise KeyError
    with only_process(tmp_path, "busy"):
        pass
