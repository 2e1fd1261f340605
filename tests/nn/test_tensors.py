import contextlib
import pickle
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wsigen.errors import SnapshotError
from wsigen.nn.tensors import read_tensors


def test_nested_dictionaries_become_flat(tmp_path):
    state = OrderedDict(a=torch.arange(3.0), b=torch.ones(2, 2, dtype=torch.float16))
    saved = {"epoch": 3, "nets": {"G": state, "name": "x", "D": {}}, "loss": [1.0], 7: torch.zeros(1)}
    torch.save(saved, tmp_path / "a.pth")
    found = read_tensors(tmp_path / "a.pth")
    assert list(found) == ["nets.G.a", "nets.G.b", "7"]
    assert torch.equal(found["nets.G.a"], torch.arange(3.0))
    assert found["nets.G.b"].dtype == torch.float16


def test_old_format_and_safetensors_hold_the_same(tmp_path):
    state = {"w.weight": torch.rand(3, 4)}
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "new.safetensors")
    for name in ("old.pt", "new.safetensors"):
        assert torch.equal(read_tensors(tmp_path / name)["w.weight"], state["w.weight"])


@pytest.mark.parametrize("at", range(0, 700, 23))
def test_damaged_bytes_are_never_a_bug_of_ours(tmp_path, at):
    torch.save({"netG": {"w": torch.rand(9)}}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    damaged = bytearray((tmp_path / "a.pth").read_bytes())
    damaged[at % len(damaged)] ^= 0x55
    (tmp_path / "a.pth").write_bytes(damaged)
    with contextlib.suppress(SnapshotError):
        assert set(map(type, read_tensors(tmp_path / "a.pth").values())) <= {torch.Tensor}


@pytest.mark.parametrize("name", ["a.pth", "old.pt", "a.safetensors"])
@pytest.mark.parametrize("keep", [0, 7, 200, -100])
def test_truncated(tmp_path, name, keep):
    path, state = tmp_path / name, {"w": torch.rand(200)}
    if name == "a.safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == "a.pth")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SnapshotError, match="not a checkpoint, or damaged") as error:
        read_tensors(path)
    assert "\n" not in str(error.value)
    assert error.value.path == path


class Evil:
    def __reduce__(self):
        return pytest.fail, ("code was run",)


@pytest.mark.parametrize("thing", [nn.Linear(1, 1), {"netG": nn.Linear(1, 1)}, {"x": Evil()}])
def test_objects_are_not_made(tmp_path, thing):
    torch.save(thing, tmp_path / "net.pth")
    with pytest.raises(
        SnapshotError, match=r"holds Python objects, .* torch.save\(net.state_dict\(\), FILE\)"
    ):
        read_tensors(tmp_path / "net.pth")


def test_plain_pickle_runs_nothing(tmp_path):
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(SnapshotError):
        read_tensors(tmp_path / "a.pth")


def test_file_of_another_kind(tmp_path):
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_text("# A text\n")
        with pytest.raises(SnapshotError, match="not a checkpoint, or damaged"):
            read_tensors(tmp_path / name)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(SnapshotError, match=r"no such file; give a \.pth"):
        read_tensors(tmp_path / "none.pth")
    with pytest.raises(SnapshotError, match="is a folder, not a checkpoint"):
        read_tensors(tmp_path)
