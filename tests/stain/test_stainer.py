import json

import pytest
import torch

from tests.stain.models import small_generator
from wsigen.errors import SnapshotError
from wsigen.nn.snapshot import CONFIG, WEIGHTS, weights_hash
from wsigen.stain import stainer
from wsigen.stain.networks.generator import FAMILIES
from wsigen.stain.stainer import bundled_markers, load_stainer, resolve_stainer, save_stainer

X = torch.rand(1, 3, 32, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def bundle(monkeypatch, tmp_path):
    """A package with stainers for SYN and Ki-67, a folder without a config, and a denoiser."""
    for name, marker in (("stain-syn", "SYN"), ("stain-ki-67", "Ki-67")):
        save_stainer(small_generator(marker=marker), tmp_path / "models" / name)
    (tmp_path / "models" / "stain-cd3").mkdir()
    (tmp_path / "models" / "default").mkdir()
    monkeypatch.setattr(stainer, "bundled", lambda name: tmp_path / "models" / name)
    return tmp_path / "models"


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family, tmp_path):
    net = small_generator(
        family, affine=True, dropout=True, marker="SYN", mpp=0.5, mpp_range=(0.4, 0.6), source="two slides"
    )
    save_stainer(net, tmp_path / "s")
    loaded = load_stainer(tmp_path / "s")
    assert torch.equal(loaded(X), net(X))
    kept = [loaded.config[k] for k in ("family", "marker", "mpp", "source", "patch_size")]
    assert kept == [family, "SYN", 0.5, "two slides", 512]
    assert tuple(loaded.config["mpp_range"]) == (0.4, 0.6)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_half_the_size_and_loads_as_float32(dtype, tmp_path):
    net = small_generator(width=8)
    save_stainer(net, tmp_path / "whole")
    save_stainer(net, tmp_path / "half", dtype)
    sizes = [(tmp_path / n / WEIGHTS).stat().st_size for n in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = load_stainer(tmp_path / "half")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    expected = {n: v.to(dtype).float() for n, v in net.state_dict().items()}
    assert all(torch.equal(v, expected[n]) for n, v in loaded.state_dict().items())
    filters = [b.dtype for b in loaded.buffers()]
    assert filters == [torch.float32] * 4
    torch.testing.assert_close(loaded(X), net(X), atol=0.05, rtol=0)
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_snapshot_does_not_say_where_it_came_from(tmp_path):
    save_stainer(small_generator(), tmp_path / "a")
    save_stainer(load_stainer(tmp_path / "a"), tmp_path / "b")
    assert str(tmp_path) not in (tmp_path / "b" / CONFIG).read_text()
    assert weights_hash(tmp_path / "a") == weights_hash(tmp_path / "b")


def test_bundled_markers_in_any_case(bundle):
    assert bundled_markers() == ("KI-67", "SYN")
    assert resolve_stainer("SYN") == resolve_stainer("syn") == bundle / "stain-syn"
    assert load_stainer("ki-67").config["marker"] == "Ki-67"


def test_marker_that_is_not_bundled_lists_those_that_are(bundle):
    with pytest.raises(
        SnapshotError, match=r"CD3: no stainer .* bundled markers are: KI-67, SYN; give one of"
    ):
        load_stainer("CD3")


def test_no_marker_is_bundled(monkeypatch, tmp_path):
    monkeypatch.setattr(stainer, "bundled", lambda name: tmp_path / name)
    assert bundled_markers() == ()
    with pytest.raises(SnapshotError, match="bundled markers are: none; give"):
        load_stainer("SYN")


def test_checkpoint_file_is_to_be_converted_first(tmp_path):
    (tmp_path / "latest_net_G.pth").write_bytes(b"")
    with pytest.raises(SnapshotError, match=r"wsigen import-stainer .*latest_net_G\.pth --out latest_net_G"):
        load_stainer(tmp_path / "latest_net_G.pth")


@pytest.mark.parametrize("name", ["no/such/folder/here", "./gone"])
def test_no_such_folder(name):
    with pytest.raises(SnapshotError, match=r"no such model|no stainer of this name"):
        load_stainer(name)


def test_hub_id_is_asked_for(monkeypatch, tmp_path):
    save_stainer(small_generator(), tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path / "hub"))
    assert resolve_stainer("owner/stain") == tmp_path / "hub"


def test_snapshot_of_another_network(tmp_path):
    save_stainer(small_generator(), tmp_path / "s")
    path = tmp_path / "s" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "Denoiser"}))
    with pytest.raises(SnapshotError, match="holds a Denoiser, not a Generator; give another folder"):
        load_stainer(tmp_path / "s")


@pytest.mark.parametrize(
    "changes", [{"width": 8}, {"blocks": 3}, {"family": "urust"}, {"family": "unet"}, {"affine": True}]
)
def test_config_that_does_not_fit(changes, tmp_path):
    save_stainer(small_generator(), tmp_path / "s")
    path = tmp_path / "s" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(SnapshotError, match=r"do not fit|cannot be read"):
        load_stainer(tmp_path / "s")


def test_nan_is_named(tmp_path):
    net = small_generator()
    net.get_parameter("model.4.bias").data[0] = float("inf")
    save_stainer(net, tmp_path / "s")
    with pytest.raises(SnapshotError, match=r"model\.4\.bias holds NaN or infinity"):
        load_stainer(tmp_path / "s")
