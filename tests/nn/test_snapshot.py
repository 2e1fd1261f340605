"""Snapshots of networks; and weight files of other projects, read as tensors alone."""

import contextlib
import json
import pickle
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wsigen.errors import SnapshotError
from wsigen.nn.denoiser import Denoiser, load_denoiser
from wsigen.nn.snapshot import CONFIG, WEIGHTS, read_tensors, resolve, save_snapshot, weights_hash


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Denoiser(
        patchify=2, block_out_channels=(32,), pixel_channels=4, context_channels=4, background=(240, 241, 242)
    )
    torch.nn.init.normal_(net.pixel_out.weight, std=0.1)
    return net


@pytest.fixture
def folder(net, tmp_path):
    save_snapshot(net, tmp_path / "snapshot")
    return tmp_path / "snapshot"


def run(net):
    x = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    return net(x, torch.tensor([0.7]), torch.tensor([2.0]))


def test_round_trip_gives_the_same_denoiser(net, folder):
    loaded = load_denoiser(folder)
    torch.testing.assert_close(run(loaded), run(net).detach())
    assert tuple(loaded.config["background"]) == (240, 241, 242)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_half_precision_snapshot_is_half_the_size_and_loads_as_float32(net, folder, tmp_path):
    save_snapshot(net, tmp_path / "half", torch.bfloat16)
    size = {f: (f / WEIGHTS).stat().st_size for f in (folder, tmp_path / "half")}
    assert size[tmp_path / "half"] < 0.6 * size[folder]
    loaded = load_denoiser(tmp_path / "half")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(run(loaded), run(net).detach(), atol=0.05, rtol=0.05)
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_saving_again_replaces_the_snapshot(net, folder):
    before = weights_hash(folder)
    torch.nn.init.normal_(net.pixel_out.weight, std=0.2)
    save_snapshot(net, folder)
    assert weights_hash(folder) != before
    assert sorted(p.name for p in folder.parent.iterdir()) == ["snapshot"]


def test_snapshot_of_a_loaded_model_does_not_say_where_it_came_from(folder, tmp_path):
    save_snapshot(load_denoiser(folder), tmp_path / "copy")
    assert str(tmp_path) not in (tmp_path / "copy" / CONFIG).read_text()
    assert (tmp_path / "copy" / WEIGHTS).stat().st_mode & 0o777 == 0o644
    assert weights_hash(folder) == weights_hash(tmp_path / "copy")


def test_hash_names_config_and_weights(net, folder, tmp_path):
    save_snapshot(net, tmp_path / "again")
    assert weights_hash(folder) == weights_hash(tmp_path / "again")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"sigma_data": 0.6}))
    assert weights_hash(folder) != weights_hash(tmp_path / "again")


@pytest.mark.parametrize("name", ["no/such/folder/at/all", "nonesuch", "./gone"])
def test_no_such_model(name):
    with pytest.raises(SnapshotError, match="no such model; give 'default'"):
        resolve(name)


def test_folder_without_a_config(tmp_path):
    with pytest.raises(SnapshotError, match=r"no config\.json here"):
        load_denoiser(tmp_path)


def test_config_without_weights(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(SnapshotError, match="but no diffusion_pytorch_model"):
        load_denoiser(folder)


@pytest.mark.parametrize("keep", [0, 5, 3000])
def test_truncated_weights(folder, keep):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SnapshotError, match="cannot be read"):
        load_denoiser(folder)


def test_damaged_config(folder):
    (folder / CONFIG).write_text("{")
    with pytest.raises(SnapshotError):
        load_denoiser(folder)


def test_weights_of_another_shape(net, folder):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"pixel_channels": 8}))
    with pytest.raises(SnapshotError, match=r"do not fit|cannot be read"):
        load_denoiser(folder)


def test_nan_in_weights_is_named(net, tmp_path):
    net.pixel_out.bias.data[1] = float("nan")
    save_snapshot(net, tmp_path / "bad")
    with pytest.raises(SnapshotError, match=r"pixel_out\.bias holds NaN"):
        load_denoiser(tmp_path / "bad")


def test_unreachable_hub_is_one_clear_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(SnapshotError, match=r"could not download weights from the hub") as error:
        resolve("owner/name")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layers", [1, 2])
def test_weights_that_are_too_few_or_too_many(tmp_path, layers):
    net = Denoiser(patchify=2, block_out_channels=(32,), layers_per_block=layers, pixel_channels=4)
    save_snapshot(net, tmp_path / "snapshot")
    path = tmp_path / "snapshot" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layers_per_block": 3 - layers}))
    with pytest.raises(SnapshotError, match="do not fit"):
        load_denoiser(tmp_path / "snapshot")


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
