import multiprocessing
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.synthetic import he_image, write_tiff
from wsigen.config import PatchGroup
from wsigen.data.index import SlideEntry, SlideIndex
from wsigen.data.patches import PatchDataset, PatchKey, PatchSchedule, collate, draw_mpp, place
from wsigen.data.survey import build_index
from wsigen.errors import InvalidValueError, SlideError
from wsigen.nn.images import to_unit


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> SlideIndex:
    folder = tmp_path_factory.mktemp("slides")
    for i, mpp in enumerate((0.5, 1.0)):
        write_tiff(folder / f"slide{i}.tif", he_image(768, seed=i, mpp=mpp), mpp, levels=3)
    return build_index(folder, progress=False)[0]


@given(u=st.floats(0, 1, exclude_max=True))
def test_log_uniform_gives_every_octave_the_same_share(u):
    mpp = draw_mpp(u, (0.25, 64.0), "log-uniform")
    assert mpp == pytest.approx(0.25 * 2 ** (8 * u))


def test_uniform_is_harbs_distribution():
    assert draw_mpp(0.5, (0.3, 150.0), "uniform") == pytest.approx(75.15)


def test_unknown_sampling_is_refused(index):
    with pytest.raises(InvalidValueError, match="mpp_sampling must be"):
        PatchDataset(index, mpp_sampling="linear")


def test_a_patch_depends_on_its_key_alone(index):
    keys = [PatchKey(n, 64) for n in range(8)]
    forward = PatchDataset(index, seed=3, mpp_range=(0.5, 4))
    backward = PatchDataset(index, seed=3, mpp_range=(0.5, 4))
    first = [forward[k] for k in keys]
    second = [backward[k] for k in reversed(keys)][::-1]
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.image, b.image)
        assert (a.mpp, a.number) == (b.mpp, b.number)
    other = PatchDataset(index, seed=4, mpp_range=(0.5, 4))
    assert not torch.equal(other[keys[0]].image, first[0].image)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_see_the_same_patches(index, method):
    dataset = PatchDataset(index, seed=1, mpp_range=(0.5, 4))
    schedule = PatchSchedule([PatchGroup(size=32, batch=4)], seed=1, images=16)
    loader = DataLoader(
        dataset,
        batch_sampler=schedule,
        num_workers=2,
        collate_fn=collate,
        multiprocessing_context=multiprocessing.get_context(method),
    )
    for keys, (images, mpp, classes, numbers) in zip(schedule, loader, strict=True):
        here = [dataset[k] for k in keys]
        assert numbers == [k.number for k in keys]
        assert torch.equal(images, torch.stack([p.image for p in here]))
        assert torch.equal(mpp, torch.tensor([p.mpp for p in here]))
        assert torch.equal(classes, torch.tensor([p.class_label for p in here]))


def labelled(index: SlideIndex, *labels: str | None) -> SlideIndex:
    entries = zip(index.entries, labels, strict=True)
    return SlideIndex(tuple(replace(entry, class_label=label) for entry, label in entries))


def test_a_patch_has_the_class_of_its_slide(index):
    """Only the first slide has 0.5 µm/px."""
    keys = [PatchKey(n, 64, (0.5, 0.6)) for n in range(4)]
    for labels, number in (
        (("skin", "liver"), 1),
        (("liver", "skin"), 0),
        (("lung", "skin"), 2),
        ((None,) * 2, 2),
    ):
        dataset = PatchDataset(labelled(index, *labels), classes=("liver", "skin"))
        assert [dataset[key].class_label for key in keys] == [number] * 4
    assert PatchDataset(labelled(index, "skin", "liver"))[keys[0]].class_label == 0


def test_a_share_of_the_classes_is_hidden_and_nothing_else_changes(index):
    keys = [PatchKey(n, 16, (1.0, 4.0)) for n in range(200)]
    of_skin = labelled(index, "skin", "skin")
    shown, some = (PatchDataset(of_skin, classes=("skin",), class_dropout=p) for p in (0.0, 0.25))
    assert {shown[key].class_label for key in keys} == {0}
    patches = [some[key] for key in keys]
    assert sum(patch.class_label for patch in patches) == pytest.approx(
        50, abs=18
    )  # three standard deviations
    assert [p.class_label for p in patches] == [some[key].class_label for key in keys]
    assert all(torch.equal(p.image, shown[key].image) for p, key in zip(patches[:8], keys[:8], strict=True))


def test_patches_show_tissue(index):
    dataset = PatchDataset(index, seed=0, mpp_range=(0.5, 2), anywhere_fraction=0.0)
    dark = [(dataset[PatchKey(n, 64)].image.float().amin(dim=0) < 225).float().mean() for n in range(40)]
    assert np.mean([d > 0.05 for d in dark]) > 0.9


def test_every_orientation_occurs(index):
    plain = PatchDataset(index, seed=0, mpp_range=(0.99, 1.01), augment=False)
    turned = PatchDataset(index, seed=0, mpp_range=(0.99, 1.01))
    found = Counter()
    for n in range(60):
        a, b = plain[PatchKey(n, 32)].image, turned[PatchKey(n, 32)].image
        for flip in (False, True):
            for turns in range(4):
                candidate = torch.rot90(a, turns, (1, 2))
                candidate = candidate.flip(2) if flip else candidate
                found[flip, turns] += torch.equal(candidate, b)
    assert len([k for k, count in found.items() if count]) == 8


def test_no_slide_is_enlarged_or_asked_for_more_than_it_has(index):
    dataset = PatchDataset(index, seed=0, mpp_range=(0.05, 0.1))
    with pytest.raises(InvalidValueError, match=r"no slide can serve 64 px patches within \(0\.05, 0\.1\)"):
        dataset[PatchKey(0, 64)]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), extent=st.floats(8, 2000), anywhere=st.booleans())
def test_placed_patches_stay_inside_and_hold_tissue(index, seed, extent, anywhere):
    entry = index.entries[0]
    y, x = place(entry, extent, np.random.default_rng(seed), anywhere=anywhere)
    side = entry.height * entry.mpp
    if extent <= side:
        for c in (y, x):
            assert extent / 2 - 1e-6 <= c <= side - extent / 2 + 1e-6
    if not anywhere:
        scale = 1 / entry.mask_mpp
        top, left = (max(0, int((c - extent / 2) * scale) - 1) for c in (y, x))
        bottom, right = (int(np.ceil((c + extent / 2) * scale)) + 1 for c in (y, x))
        assert entry.mask[top:bottom, left:right].any()


GROUPS = [PatchGroup(size=32, batch=8, weight=3), PatchGroup(size=64, batch=4, weight=1)]


def keys_of(images=400, **kwargs):
    return list(PatchSchedule(GROUPS, seed=5, images=images, **kwargs))


def test_schedule_counts_every_image_once_and_mixes_sizes():
    flat = [k for batch in keys_of() for k in batch]
    assert [k.number for k in flat] == list(range(len(flat)))
    assert len(flat) >= 400
    sizes = Counter(batch[0].size for batch in keys_of(4000))
    assert sizes[32] / sizes[64] == pytest.approx(3, rel=0.35)
    assert all(len({k.size for k in batch}) == 1 for batch in keys_of())


@pytest.mark.parametrize(("processes", "accumulation"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_processes_and_accumulation_share_out_the_same_updates(processes, accumulation):
    parts = [keys_of(rank=r, processes=processes, accumulation=accumulation) for r in range(processes)]
    updates = []
    for u in range(len(parts[0]) // accumulation):
        micro = range(u * accumulation, (u + 1) * accumulation)
        updates.append(sorted(k for i in micro for part in parts for k in part[i]))
    assert updates == keys_of()


def test_a_patch_size_may_keep_to_its_own_scales(index):
    """And the images of the others are those that they were."""
    groups = [GROUPS[0], replace(GROUPS[1], mpp_range=(2.0, 4.0))]
    before, now = (
        [key for batch in PatchSchedule(g, seed=5, images=120) for key in batch] for g in (GROUPS, groups)
    )
    dataset = PatchDataset(index, seed=5, mpp_range=(0.5, 4.0))
    scales = []
    for a, b in zip(before, now, strict=True):
        assert (a.number, a.size) == (b.number, b.size)
        if b.size == 32:
            assert a == b
            continue
        scales.append(dataset[b].mpp)
        u = np.log(dataset[a].mpp / 0.5) / np.log(8)  # the same quantile of the other range
        assert scales[-1] == pytest.approx(2.0 * 2.0**u)
    assert min(scales) >= 2.0
    assert len(scales) >= 20


def test_scales_of_one_patch_size_that_no_slide_can_serve_are_refused_before_a_run(index):
    dataset = PatchDataset(index, mpp_range=(0.25, 4))
    dataset.require(64, (0.5, 1.0))
    with pytest.raises(InvalidValueError, match=r"no slide can serve 64 px patches within \(0.25, 0.3\)"):
        dataset.require(64, (0.25, 0.3))


def test_resumed_schedule_goes_on_with_the_same_updates():
    whole = keys_of()
    images = sum(map(len, whole[:7]))
    assert keys_of(first_update=7, first_image=images) == whole[7:]


def test_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(
        InvalidValueError, match=r"batch of 8 patches of 32 px cannot be shared by 3 processes"
    ):
        keys_of(processes=3)


def test_unit_range():
    image = torch.tensor([0, 255], dtype=torch.uint8)
    torch.testing.assert_close(to_unit(image), torch.tensor([-1.0, 1.0]))


def test_damaged_slide_is_reported_and_other_patches_are_drawn(index, monkeypatch, caplog):
    bad = index.entries[0].slide
    cut = PatchDataset.cut

    def damaged(self, entry, mpp, size, rng):
        if entry.slide == bad:
            raise SlideError(entry.path, "damaged: tile 7")
        return cut(self, entry, mpp, size, rng)

    monkeypatch.setattr(PatchDataset, "cut", damaged)
    keys = [PatchKey(n, 32) for n in range(12)]
    forward, backward = (PatchDataset(index, mpp_range=(0.5, 4)) for _ in range(2))
    first = [forward[k] for k in keys]
    second = [backward[k] for k in reversed(keys)][::-1]
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, second, strict=True))
    assert min(p.mpp for p in first) >= 0.95, "all from the slide of 1 µm/px"
    assert caplog.text.count("damaged: tile 7") == 2, "once for each data set"
    for data in (forward, backward):
        count = data._damaged[bad]
        assert count >= 1
        assert ("10 patches are left out so far" in caplog.text) == (count >= 10)


def test_patches_that_no_slide_can_serve_are_refused_before_a_run(index):
    PatchDataset(index, mpp_range=(0.25, 4)).require(64)
    with pytest.raises(InvalidValueError, match=r"no slide can serve 64 px patches within \(0.1, 0.2\)"):
        PatchDataset(index, mpp_range=(0.1, 0.2)).require(64)


def test_narrow_range_of_usable_scales_does_not_end_a_run(index):
    """One patch in thirty has a µm/px that can be served: 64 draws would fail for one in ten."""
    dataset = PatchDataset(index, mpp_range=(0.0000001, 0.85))
    assert all(dataset[PatchKey(n, 32)].mpp >= 0.475 for n in range(40))


def test_patches_hold_as_much_tissue_as_asked_for(index, monkeypatch):
    """Patches that have it are the same as without the wish; the others are drawn anew."""
    shares: list[float] = []
    tissue_share = SlideEntry.tissue_share

    def watched(self, centre, extent_um):
        shares.append(tissue_share(self, centre, extent_um))
        return shares[-1]

    plain = PatchDataset(index, seed=0, mpp_range=(1.0, 1.0), anywhere_fraction=0.0)
    wished = PatchDataset(index, seed=0, mpp_range=(1.0, 1.0), anywhere_fraction=0.0, min_tissue=0.7)
    monkeypatch.setattr(SlideEntry, "tissue_share", watched)
    redrawn = 0
    for number in range(60):
        shares.clear()
        same = torch.equal(wished[PatchKey(number, 128)].image, plain[PatchKey(number, 128)].image)
        assert same == (len(shares) == 1)
        assert shares[-1] >= 0.7 > max(shares[:-1], default=0)
        redrawn += not same
    assert 3 < redrawn < 57


def test_share_of_tissue_is_that_of_the_mask(index):
    entry = index.entries[0]
    rows, columns = (side * entry.mpp for side in (entry.height, entry.width))
    assert entry.tissue_share((rows / 2, columns / 2), rows) == pytest.approx(entry.mask.mean(), abs=0.02)
    assert entry.tissue_share((rows / 2, columns / 2), 2 * rows) == pytest.approx(
        entry.mask.mean() / 4, abs=0.02
    )
    assert entry.tissue_share((-rows, -columns), rows / 4) == 0


def test_tissue_that_no_patch_can_hold_is_refused(index, monkeypatch):
    monkeypatch.setattr("wsigen.data.patches.ATTEMPTS", 20)
    dataset = PatchDataset(index, mpp_range=(4.0, 4.0), anywhere_fraction=0.0, min_tissue=1.0)
    with pytest.raises(InvalidValueError, match="ask for less min_tissue"):
        dataset[PatchKey(0, 192)]
    anywhere = PatchDataset(index, mpp_range=(4.0, 4.0), anywhere_fraction=1.0, min_tissue=1.0)
    patch = anywhere[PatchKey(0, 192)]
    assert patch.mpp == 4.0
    assert patch.image.float().std() > 1
