import json

import pytest
import torch

from wsigen.errors import SnapshotError
from wsigen.nn.denoiser import Denoiser, load_denoiser
from wsigen.nn.snapshot import CONFIG, WEIGHTS, resolve, save_snapshot, weights_hash


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
    with pytest.raises(SnapshotError, match=r"neither a local folder nor to be had from the hub") as error:
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
