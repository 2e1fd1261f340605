"""Models of several networks: they round trip, single networks still are models, and what lacks is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.pipeline.models import small_net
from tests.sampling.upscalers import small_upscaler
from wsigen.errors import SnapshotError
from wsigen.nn.denoiser import Denoiser, load_denoiser
from wsigen.nn.model import load_model, save_model
from wsigen.nn.snapshot import CONFIG, INDEX, WEIGHTS, load_snapshot, resolve, save_snapshot, weights_hash
from wsigen.nn.upscaler import Upscaler


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", denoiser=small_net(), upscaler=small_upscaler())
    return tmp_path / "model"


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    values, others = a.state_dict(), b.state_dict()
    return values.keys() == others.keys() and all(torch.equal(v, others[k]) for k, v in values.items())


def test_both_networks_round_trip_and_the_index_is_that_of_diffusers(folder):
    model = load_model(folder)
    assert same(model.denoiser, small_net())
    assert same(model.upscaler, small_upscaler())
    assert json.loads((folder / INDEX).read_text()) == {
        "_class_name": "Model",
        "denoiser": ["wsigen.nn.denoiser", "Denoiser"],
        "upscaler": ["wsigen.nn.upscaler", "Upscaler"],
    }
    assert sorted(p.name for p in folder.iterdir()) == ["denoiser", INDEX, "upscaler"]


def test_each_network_is_found_by_its_class(folder):
    assert same(load_denoiser(folder), small_net())
    assert same(load_snapshot(Upscaler, resolve(folder)), small_upscaler())


def test_an_upscaler_can_be_added_later(tmp_path):
    save_model(tmp_path / "m", denoiser=small_net())
    alone = load_model(tmp_path / "m")
    assert (alone.upscaler, alone.upscaler_hash) == (None, "")
    save_model(tmp_path / "m", upscaler=small_upscaler())
    both = load_model(tmp_path / "m")
    assert same(both.upscaler, small_upscaler())
    assert both.denoiser_hash == alone.denoiser_hash


def test_a_single_denoiser_is_a_model_and_the_upscaler_may_come_from_elsewhere(folder, tmp_path):
    save_snapshot(small_net(), tmp_path / "denoiser")
    save_snapshot(small_upscaler(1), tmp_path / "upscaler")
    assert load_model(tmp_path / "denoiser").upscaler is None
    for model in (folder, tmp_path / "denoiser"):
        loaded = load_model(model, tmp_path / "upscaler")
        assert same(loaded.upscaler, small_upscaler(1))
        assert loaded.upscaler_hash == weights_hash(tmp_path / "upscaler")
    assert same(load_model(tmp_path / "denoiser", folder).upscaler, small_upscaler())


def test_the_hash_covers_what_is_asked_for(folder):
    whole, kinds = weights_hash(folder), (Denoiser.__name__, Upscaler.__name__)
    parts = [weights_hash(folder, [kind]) for kind in kinds]
    assert whole == weights_hash(folder, kinds)
    assert len({whole, *parts}) == 3
    assert parts[0] == weights_hash(folder / "denoiser")
    save_model(folder, upscaler=small_upscaler(1))
    assert weights_hash(folder) != whole
    assert weights_hash(folder, kinds[:1]) == parts[0]


def test_what_is_missing_is_named(folder, tmp_path):
    save_model(tmp_path / "m", denoiser=small_net())
    with pytest.raises(SnapshotError, match="has no Upscaler, only Denoiser"):
        load_model(folder, tmp_path / "m")
    with pytest.raises(SnapshotError, match="holds a Denoiser, not a Upscaler"):
        load_model(folder, tmp_path / "m" / "denoiser")
    (folder / "upscaler" / WEIGHTS).unlink()
    with pytest.raises(SnapshotError, match="but no diffusion_pytorch_model"):
        load_model(folder)
    (folder / "upscaler" / CONFIG).unlink()
    with pytest.raises(SnapshotError, match=r"no config\.json here, but model_index\.json names it"):
        load_model(folder)


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"denoiser": ["only"]}'])
def test_a_damaged_index_is_named(folder, text):
    (folder / INDEX).write_text(text)
    with pytest.raises(SnapshotError, match="cannot be read"):
        load_model(folder)


def test_nan_in_the_upscaler_is_named(folder):
    net = small_upscaler()
    net.out.bias[1] = float("nan")
    save_model(folder, upscaler=net)
    with pytest.raises(SnapshotError, match=r"out\.bias holds NaN"):
        load_model(folder)


def test_a_hub_model_is_downloaded_with_its_parts_only(folder, monkeypatch):
    asked = {}

    def download(name, *, allow_patterns):
        asked[name] = allow_patterns
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load_model("owner/name").upscaler is not None
    assert {INDEX, CONFIG, WEIGHTS, f"upscaler/{WEIGHTS}", f"denoiser/{CONFIG}"} <= set(asked["owner/name"])
