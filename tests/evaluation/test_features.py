"""Extractors by name: streams of patches, networks from files, and plain words where something is missing."""

from __future__ import annotations

import sys
import urllib.error
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as inception_v3

from wsigen.errors import InvalidValueError, SnapshotError
from wsigen.evaluation.descriptor import describe
from wsigen.evaluation.features import Inception, batches, load_extractor


def noise(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


class Means(nn.Module):
    """Stands in for an encoder: what reaches it is what it returns."""

    def forward(self, x):
        self.seen = x
        return x.mean((2, 3))


def fake_timm(net: nn.Module, calls: list) -> SimpleNamespace:
    def create_model(name, *, pretrained, num_classes):
        calls.append(name)
        assert pretrained
        assert num_classes == 0
        if name == "unknown":
            raise RuntimeError("Unknown model (unknown)\nand a long list")
        return net

    config = {"input_size": (3, 32, 48), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1.0)}
    data = SimpleNamespace(resolve_model_data_config=lambda net: config)
    return SimpleNamespace(create_model=create_model, data=data)


def test_a_stream_is_described_in_batches():
    patches, extractor = noise(7), load_extractor("weight-free")
    features = np.concatenate([extractor(np.stack(b)) for b in batches(iter(patches), 3)])
    np.testing.assert_array_equal(features, np.stack([describe(p) for p in patches]))
    assert [len(b) for b in batches(patches, 3)] == [3, 3, 1]
    assert list(batches([], 3)) == []


def test_timm_models_see_resized_normalised_patches(monkeypatch, tmp_path):
    net, calls = Means(), []
    monkeypatch.setitem(sys.modules, "timm", fake_timm(net, calls))
    extractor = load_extractor("timm:resnet10t")
    assert (extractor.name, extractor.dimensions, extractor.comparable) == ("timm:resnet10t", 3, False)
    grey = np.full((2, 100, 80, 3), 51, np.uint8)
    np.testing.assert_allclose(
        extractor(grey), np.tile((0.2 - 0.5) / np.array([0.25, 0.5, 1]), (2, 1)), atol=1e-5
    )
    assert net.seen.shape == (2, 3, 32, 48)
    load_extractor("timm:owner/model")
    load_extractor(f"timm:{tmp_path}")
    load_extractor("timm:hf-hub:owner/model")
    assert calls == ["resnet10t", "hf-hub:owner/model", f"local-dir:{tmp_path}", "hf-hub:owner/model"]
    with pytest.raises(SnapshotError, match=r"cannot be loaded \(Unknown model \(unknown\)\)"):
        load_extractor("timm:unknown")


class Transformer(nn.Module):
    """Two encoders in one, as CLIP has; the pooled output is missing, as with plain transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_model = nn.Module()
        self.vision_model.forward = lambda x: SimpleNamespace(
            last_hidden_state=torch.stack([x[:, :2].mean((2, 3)), x[:, 1:].mean((2, 3))], dim=1)
        )


@pytest.mark.parametrize(
    "processor",
    [
        {"size": {"height": 32, "width": 32}},
        {"size": SimpleNamespace(shortest_edge=32)},
        {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
    ],
)
def test_transformers_models_give_their_first_token(monkeypatch, processor):
    statistics = {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}
    fake = SimpleNamespace(
        AutoModel=SimpleNamespace(from_pretrained=lambda name: Transformer()),
        AutoImageProcessor=SimpleNamespace(
            from_pretrained=lambda name: SimpleNamespace(**processor, **statistics)
        ),
    )
    monkeypatch.setitem(sys.modules, "transformers", fake)
    extractor = load_extractor("transformers:owner/model")
    patches = noise(3, size=32)
    np.testing.assert_allclose(extractor(patches), patches.mean((1, 2))[:, :2] / 255, rtol=1e-4)
    assert extractor.dimensions == 2


@pytest.mark.parametrize("package", ["timm", "transformers"])
def test_a_missing_package_is_named_with_its_cure(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        InvalidValueError, match=rf"need the package {package}: pip install 'wsigen\[features\]'"
    ):
        load_extractor(f"{package}:owner/model")


@pytest.mark.parametrize("name", ["vgg", "timm", "timm:", "weight-free:x", ""])
def test_unknown_features_list_what_there_is(name):
    with pytest.raises(InvalidValueError, match="weight-free, inception"):
        load_extractor(name)


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """Random weights in torch-fidelity's layout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception_v3, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        torch.manual_seed(0)
        net = inception_v3.FeatureExtractorInceptionV3("random", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(net.state_dict(), path)
    return path, net


def test_inception_from_a_file_is_torch_fidelitys(inception_weights):
    path, net = inception_weights
    extractor, patches = load_extractor(f"inception:{path}"), noise(1, 80)
    features = extractor(patches)
    theirs = net(torch.from_numpy(patches.transpose(0, 3, 1, 2).copy()))[0].numpy()
    np.testing.assert_allclose(features, theirs, rtol=1e-4, atol=1e-5)
    assert features.shape == (1, extractor.dimensions)
    assert extractor.comparable
    assert features.std() > 0


def test_inception_without_network_says_where_to_get_it(monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(inception_v3, "load_state_dict_from_url", offline)
    with pytest.raises(SnapshotError, match=r"could not download https://.*pth .*use inception:PATH"):
        load_extractor("inception")


def test_other_files_are_no_inception(tmp_path):
    with pytest.raises(SnapshotError, match="no such file"):
        Inception(tmp_path / "missing.pth")
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(SnapshotError, match="does not hold"):
        Inception(tmp_path / "other.pth")
    torch.save(SimpleNamespace(code="anything"), tmp_path / "code.pth")
    with pytest.raises(SnapshotError, match="is not a plain weights file"):
        Inception(tmp_path / "code.pth")


def test_networks_want_bytes(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", fake_timm(Means(), []))
    with pytest.raises(InvalidValueError, match="uint8"):
        load_extractor("timm:resnet10t")(np.zeros((1, 64, 64, 3), np.float32))
