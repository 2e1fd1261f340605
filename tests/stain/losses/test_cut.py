import math

import numpy as np
import pytest
import torch

from wsigen.errors import InvalidValueError
from wsigen.stain.losses.cut import PatchNCE, PatchProjector, draw_places, info_nce, take_places
from wsigen.stain.networks.blocks import initialise


def nce(**kwargs):
    return PatchNCE((3, 6), width=8, places=16, **kwargs)


def maps(seed=0, b=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, 3, 12, 10, generator=generator), torch.randn(b, 6, 6, 5, generator=generator)]


def test_by_hand():
    # two places, two channels, τ = ½: cosines [[0.6, 0.8], [1, 0]]
    query, key = torch.tensor([[[0.6, 0.8], [1.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    expected = [
        -math.log(math.exp(1.2) / (math.exp(1.2) + math.exp(1.6))),
        -math.log(1 / (math.exp(2.0) + 1)),
    ]
    torch.testing.assert_close(info_nce(query, key, tau=0.5), torch.tensor([expected]))


def test_other_negatives_by_hand():
    # cosines: v·k = 0.6 and 0.8 (own: 0.6), v·o = 0, k·o = 0.8 for the first query
    query, key = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[0.6, 0.8], [0.8, 0.6]]])
    others = torch.tensor([[[0.0, 1.0]]])
    terms = [math.exp(2 * c) for c in (0.6, 0.8, 0.0, 0.8)]
    second = [math.exp(2 * c) for c in (0.6, 0.8, 1.0, 0.6)]
    expected = [-math.log(terms[0] / sum(terms)), -math.log(second[0] / sum(second))]
    torch.testing.assert_close(info_nce(query, key, 0.5, others), torch.tensor([expected]))


def test_negatives_of_all_images():
    own, everyone = nce(), nce(all_negatives=True)
    numbers = {"seed": 0, "image_numbers": [0, 1]}
    places = [draw_places(0, [0, 1], layer, m[0, 0].numel(), 16) for layer, m in enumerate(maps())]
    pairs = zip(own.projector(maps(), places), own.projector(maps(1), places), strict=True)
    together = [info_nce(v.reshape(1, 32, 8), k.reshape(1, 32, 8)).mean() for v, k in pairs]
    torch.testing.assert_close(everyone(maps(), maps(1), **numbers), sum(together) / 2)
    assert everyone(maps(), maps(1), **numbers) > own(maps(), maps(1), **numbers)


@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_query_that_is_its_key_among_orthogonal_ones(tau):
    vectors = torch.eye(5)[None]
    expected = -math.log(math.exp(1 / tau) / (math.exp(1 / tau) + 4))
    torch.testing.assert_close(
        info_nce(vectors, vectors, tau), torch.full((1, 5), expected), atol=1e-6, rtol=1e-5
    )


def test_equal_keys_leave_pure_chance():
    query = torch.nn.functional.normalize(
        torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0)), dim=2
    )
    key = torch.tensor([1.0, 0, 0, 0]).expand(3, 7, 4)
    torch.testing.assert_close(info_nce(query, key), torch.full((3, 7), math.log(7)))


def test_negatives_come_from_the_same_image_only():
    generator = torch.Generator().manual_seed(0)
    query, key = (
        torch.nn.functional.normalize(torch.randn(2, 5, 4, generator=generator), dim=2) for _ in "qk"
    )
    both = info_nce(query, key)
    for i in range(2):
        torch.testing.assert_close(info_nce(query[i : i + 1], key[i : i + 1])[0], both[i])


def test_places_are_different_and_within():
    places = draw_places(3, [0, 7], 1, pixels=300, count=256)
    assert places.shape == (2, 256)
    assert places.min() >= 0
    assert places.max() < 300
    assert all(len(set(row.tolist())) == 256 for row in places)
    assert sorted(draw_places(3, [0], 1, pixels=20)[0].tolist()) == list(range(20))


def test_places_of_an_image_depend_on_nothing_else():
    together = draw_places(3, [4, 5, 6], 2, 1000)
    assert torch.equal(draw_places(3, [6, 4], 2, 1000), together[[2, 0]])
    others = [draw_places(4, [4], 2, 1000), draw_places(3, [4], 1, 1000), draw_places(3, [5], 2, 1000)]
    assert not any(torch.equal(other[0], together[0]) for other in others)


def test_places_are_uniform():
    hits = np.bincount(draw_places(0, range(2000), 0, pixels=64, count=16).flatten(), minlength=64)
    # 500 expected, σ = √(2000 · ¼ · ¾) = 19.4
    assert np.abs(hits - 500).max() < 5 * 19.4


def test_features_are_taken_in_row_major_order():
    features = torch.arange(2 * 2 * 3 * 4, dtype=torch.float32).reshape(2, 2, 3, 4)
    places = torch.tensor([[0, 5, 11], [3, 4, 4]])
    expected = torch.stack([features[i].flatten(1)[:, places[i]].T for i in range(2)])
    assert torch.equal(take_places(features, places), expected)
    assert torch.equal(take_places(features.contiguous(memory_format=torch.channels_last), places), expected)


def test_projected_vectors_by_hand():
    projector = PatchProjector((2,), width=2)
    head = projector.heads[0]
    with torch.no_grad():
        head[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        head[2].weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        head[2].bias.copy_(torch.tensor([0.0, 4.0]))
    feature = torch.tensor([1.0, 5.0]).reshape(1, 2, 1, 1)  # ReLU(1, −5) = (1, 0) → (3, 4) → (0.6, 0.8)
    (vector,) = projector([feature], [torch.zeros(1, 1, dtype=torch.int64)])
    torch.testing.assert_close(vector, torch.tensor([[[0.6, 0.8]]]))


def test_first_weights_are_always_the_same():
    torch.manual_seed(0)
    first = PatchNCE((3, 6), width=8)
    torch.manual_seed(1)
    second = PatchNCE((3, 6), width=8)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    deviation = PatchNCE((100,), width=300).projector.heads[0][0].weight.std().item()
    assert deviation == pytest.approx(0.02 * (2 / 400) ** 0.5, rel=0.02)


def test_gain_leaves_the_first_vectors_alone():
    vectors = [
        initialise(PatchProjector((3, 6), width=8), gain=gain)(maps(), [torch.arange(20).expand(2, 20)] * 2)
        for gain in (0.02, 1.0)
    ]
    for small, large in zip(*vectors, strict=True):
        torch.testing.assert_close(small, large, atol=1e-5, rtol=1e-5)


def test_all_parameters_are_registered_before_use():
    loss = PatchNCE((3, 128, 256))
    assert sum(p.numel() for p in loss.parameters()) == (3 + 128 + 256) * 256 + 3 * (256 + 256 * 256 + 256)


def test_whole_loss_is_the_mean_over_layers_of_the_parts():
    loss, query, key = nce(), maps(0), maps(1)
    whole = loss(query, key, seed=5, image_numbers=[8, 9])
    parts = []
    for layer, (q, k) in enumerate(zip(query, key, strict=True)):
        places = draw_places(5, [8, 9], layer, q[0, 0].numel(), 16)
        head = loss.projector.heads[layer]
        vectors = [
            torch.nn.functional.normalize(head(f.flatten(2).transpose(1, 2)), dim=2).gather(
                1, places[..., None].expand(-1, -1, 8)
            )
            for f in (q, k)
        ]
        logits = vectors[0] @ vectors[1].transpose(1, 2) / 0.07
        parts.append(-(logits.diagonal(dim1=1, dim2=2) - logits.logsumexp(2)).mean())
    torch.testing.assert_close(whole, (parts[0] + parts[1]) / 2)


def test_gradients_reach_output_and_heads_but_not_the_input():
    loss, query, key = nce(), maps(0), maps(1)
    for f in (*query, *key):
        f.requires_grad_()
    loss(query, key, seed=0, image_numbers=[0, 1]).backward()
    assert all(f.grad.abs().sum() > 0 for f in query)
    assert all(f.grad is None for f in key)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    touched = query[0].grad.abs().sum(1).flatten(1) > 0
    assert touched.sum(1).tolist() == [16, 16]


def test_batch_is_the_mean_of_its_images():
    loss, query, key = nce(), maps(0), maps(1)
    whole = loss(query, key, seed=0, image_numbers=[3, 4])
    alone = [
        loss([f[i : i + 1] for f in query], [f[i : i + 1] for f in key], seed=0, image_numbers=[3 + i])
        for i in range(2)
    ]
    torch.testing.assert_close(whole, (alone[0] + alone[1]) / 2)


def test_training_the_heads_separates_the_places():
    loss, query = nce(), maps(0)
    optimiser = torch.optim.Adam(loss.parameters(), lr=2e-3)
    history = []
    for step in range(60):
        value = loss(query, query, seed=step, image_numbers=[0, 1])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        history.append(value.item())
    assert sum(history[-10:]) < 0.8 * sum(history[:10])


def test_autocast_changes_little_and_returns_float32():
    loss, query, key = nce(), maps(0), maps(1)
    exact = loss(query, key, seed=0, image_numbers=[0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss(query, key, seed=0, image_numbers=[0, 1])
        vectors = loss.projector.heads[0](query[0].permute(0, 2, 3, 1))
        fine = info_nce(torch.eye(4)[None], torch.eye(4)[None], tau=0.5)
    assert vectors.dtype == torch.bfloat16
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0)
    torch.testing.assert_close(
        fine, info_nce(torch.eye(4)[None], torch.eye(4)[None], tau=0.5), rtol=0, atol=0
    )


def test_zero_features_stay_finite():
    loss = nce()
    query, key = ([torch.zeros_like(f).requires_grad_() for f in maps()] for _ in "qk")
    value = loss(query, key, seed=0, image_numbers=[0, 1])
    value.backward()
    torch.testing.assert_close(value, torch.tensor(math.log(16)))
    assert all(f.grad.isfinite().all() for f in query)


def test_features_of_other_layers_are_refused():
    with pytest.raises(InvalidValueError, match=r"made for \(3, 6\) channels, got features of \(6, 3\)"):
        nce()(maps()[::-1], maps()[::-1], seed=0, image_numbers=[0, 1])


@pytest.mark.parametrize(("kwargs", "message"), [({"places": 1}, "at least 2"), ({"tau": 0.0}, "positive")])
def test_values_out_of_range(kwargs, message):
    with pytest.raises(InvalidValueError, match=message):
        PatchNCE((3,), **kwargs)
