"""A slide in one sweep: closed forms; any chopping, tile, start, number of networks and glass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.stain.translations import GLASS, Blur, OneNorm, generator, texture, translate
from tests.synthetic import he_image
from wsigen.errors import InvalidValueError
from wsigen.geometry import Size
from wsigen.stain.engine.background import BackgroundMap, background_map
from wsigen.stain.engine.stream import Norm, StreamTranslator

NORMS = ["dn", "dn-4", "kin", "kin-gaussian-5", "kin-inf", "tin", "in"]


def in_grey(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint((values + 1) * 127.5), 0, 255)


def node_statistics(image: np.ndarray, pitch: int) -> tuple[np.ndarray, np.ndarray, list[float], list[float]]:
    """Mean and 1/σ of each cell, and where the cells' centres lie; whole cells and one larger at the end."""
    spans = []
    for length in image.shape[:2]:
        count = max(1, (2 * length + pitch) // (2 * pitch))
        spans.append([(i * pitch, length if i == count - 1 else (i + 1) * pitch) for i in range(count)])
    values = image / 127.5 - 1
    cells = [[values[a:b, c:d].reshape(-1, 3) for c, d in spans[1]] for a, b in spans[0]]
    mean = np.array([[cell.mean(0) for cell in row] for row in cells])
    inv_std = np.array([[1 / np.sqrt(cell.var(0) + 1e-5) for cell in row] for row in cells])
    centres = [[(a + b) / 2 for a, b in span] for span in spans]
    return mean, inv_std, *centres  # type: ignore[return-value]


def bilinear(table: np.ndarray, rows: list[float], cols: list[float], shape: tuple[int, int]) -> np.ndarray:
    at = [np.arange(n) + 0.5 for n in shape]
    across = np.stack([[np.interp(at[1], cols, row[:, c]) for c in range(3)] for row in table])
    flat = across.reshape(len(table), -1)
    down = np.stack([np.interp(at[0], rows, flat[:, i]) for i in range(flat.shape[1])], 1)
    return down.reshape(shape[0], 3, shape[1]).transpose(0, 2, 1)


def test_dense_normalisation_is_the_bilinear_field_of_the_nodes():
    image = texture(416, 356)  # cells of 128, and a longer last one either way
    mean, inv_std, rows, cols = node_statistics(image, 128)
    m, s = (bilinear(table, rows, cols, image.shape[:2]) for table in (mean, inv_std))
    expected = in_grey(0.25 * (image / 127.5 - 1 - m) * s)
    (out,) = translate([OneNorm()], image, pitch=128, tile=64, chop=33)
    assert np.abs(out - expected).max() <= 1  # where the last bit decides the rounding
    assert (out == expected).mean() > 0.999


def test_kernelised_normalisation_averages_the_nodes_around_a_patch():
    image = texture(384, 384)
    mean, inv_std, _, _ = node_statistics(image, 128)
    tables = [np.pad(t, ((1, 1), (1, 1), (0, 0)), mode="edge") for t in (mean, 1 / inv_std)]
    m, s = (sum(t[i : i + 3, j : j + 3] for i in range(3) for j in range(3)) / 9 for t in tables)
    m, s = (np.kron(t.transpose(2, 0, 1), np.ones((128, 128))).transpose(1, 2, 0) for t in (m, s))
    expected = in_grey(0.25 * (image / 127.5 - 1 - m) / s)
    (out,) = translate([OneNorm()], image, norm=Norm("kin"), pitch=128, tile=100)
    assert (out == expected).mean() > 0.999


def test_one_node_is_instance_normalisation():
    image = texture(128, 160)
    with torch.inference_mode():
        x = torch.from_numpy(image / np.float32(127.5) - 1).permute(2, 0, 1)[None]
        expected = in_grey(OneNorm()(x)[0].permute(1, 2, 0).numpy())
    for norm in ("in", "dn", "kin", "tin", "kin-inf"):
        (out,) = translate([OneNorm()], image, norm=Norm.parse(norm))
        assert (out == expected).mean() > 0.999, norm


def test_patchwise_normalisation_takes_each_patch_with_its_halo():
    image, net = texture(256, 384), generator(blocks=0)
    assert net.halo == 24
    (out,) = translate([net], image, norm=Norm("in"), pitch=128, tile=64)
    with torch.inference_mode():
        part = image[104:256, 104:280]
        x = torch.from_numpy(part / np.float32(127.5) - 1).permute(2, 0, 1)[None]
        expected = in_grey(generator(blocks=0)(x)[0].permute(1, 2, 0).numpy())[24:, 24:-24]
    assert np.abs(out[128:, 128:256] - expected).max() <= 1
    assert (out[128:, 128:256] == expected).mean() > 0.99


@pytest.mark.parametrize(
    ("family", "norm"), [*(("cut", norm) for norm in NORMS), ("cyclegan", "dn"), ("urust", "dn")]
)
def test_tiles_chopping_and_starts_leave_no_trace(family, norm):
    image, norm, net = texture(230, 298), Norm.parse(norm), generator(family)  # neither a multiple of 4
    whole = translate([net], image, norm=norm, pitch=64, tile=4096)[0]
    assert whole.shape == image.shape
    assert whole.std() > 5
    for tile, chop, start in ((64, 17, 0), (128, 230, 131)):
        (out,) = translate([net], image, chop=chop, norm=norm, pitch=64, tile=tile, start=start)
        np.testing.assert_array_equal(out, whole[start:])


def test_rows_may_come_one_by_one():
    image = texture(230, 298)
    whole, out = (translate([OneNorm()], image, pitch=64, tile=64, chop=chop)[0] for chop in (None, 1))
    np.testing.assert_array_equal(out, whole)


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (65, 400), (400, 66)])
def test_slides_of_any_size(size):
    image = texture(*size)
    one = translate([generator()], image, pitch=128, tile=1024)[0]
    assert one.shape == image.shape
    np.testing.assert_array_equal(translate([generator()], image, chop=13, pitch=128, tile=64)[0], one)


def test_padding_is_the_last_row_and_column():
    image = texture(131, 130)
    padded = np.pad(image, ((0, 1), (0, 2), (0, 0)), mode="edge")
    out, full = (translate([generator()], i, norm=Norm("in"))[0] for i in (image, padded))
    np.testing.assert_array_equal(out, full[:131, :130])


def test_several_networks_in_one_pass_are_as_if_alone():
    image = texture(200, 180)
    nets = [
        generator("cut", blocks=1),
        generator("cyclegan", blocks=2, seed=1),
        generator("urust", blocks=0, seed=2),
    ]
    assert len({net.halo for net in nets}) == 3
    together = translate(nets, image, chop=40, pitch=64, tile=64)
    for net, out in zip(nets, together, strict=True):
        np.testing.assert_array_equal(out, translate([net], image, pitch=64, tile=64)[0])
    assert not np.array_equal(together[0], together[1])


def test_rows_leave_in_order_as_soon_as_nodes_below_are_known():
    image = texture(1024, 256)
    stream = StreamTranslator([OneNorm()], Size(1024, 256), pitch=128, tile=256)
    done, ready = 0, {}
    for y in range(1024):
        for which, rows in stream.push(image[y : y + 1]):
            assert which == 0
            done += len(rows)
            ready[done] = y + 1
    # the first 256 rows lie between nodes 0 and 2, which node 3 may fill; the last wait for no more nodes
    assert ready == {256: 512, 512: 768, 768: 1024, 1024: 1024}
    assert stream.rows_alive == 512


def test_sparse_nodes_are_measured_in_the_middle_of_cells_alone():
    image = np.random.default_rng(0).integers(90, 160, (2048, 1024, 3), np.uint8)
    changed = image.copy()
    changed[:256] = 10  # not part of any 512-px patch in the middle of a 1024-px cell
    one, other = (translate([OneNorm()], i, pitch=1024, tile=512)[0] for i in (image, changed))
    np.testing.assert_array_equal(one[256:], other[256:])
    dense = translate([OneNorm()], changed, pitch=512, tile=512)[0]
    assert not np.array_equal(dense[256:], other[256:])


def test_networks_without_norm_layers_are_rendered_as_they_are():
    image = texture(130, 150)
    whole = translate([Blur()], image, norm=None, tile=4096)[0]
    np.testing.assert_array_equal(translate([Blur()], image, norm=None, tile=64, chop=7)[0], whole)
    middle = image[60:65, 70:75].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(whole[62, 72], middle, atol=0.51)


def islands(image: np.ndarray) -> BackgroundMap:
    cells = image[: len(image) // 8 * 8, : image.shape[1] // 8 * 8]
    overview = cells.reshape(len(cells) // 8, 8, -1, 8, 3).mean((1, 3)).round().astype(np.uint8)
    return background_map(overview, GLASS, 8)


def white_slides() -> dict[str, np.ndarray]:
    tissue, white = texture(256, 384), np.full((256, 384, 3), GLASS, np.uint8)
    half, island, constant = tissue.copy(), white.copy(), tissue.copy()
    half[:, 128:] = GLASS
    island[90:130, 100:145] = tissue[90:130, 100:145]
    constant[:, 100:] = (120, 60, 140)
    flat = np.full((256, 384, 3), (120, 60, 140), np.uint8)
    return {"white": white, "half": half, "island": island, "constant": constant, "flat": flat}


@pytest.mark.parametrize("name", ["white", "half", "island", "constant", "flat"])
@pytest.mark.parametrize("norm", ["dn", "kin-5", "tin", "in"])
def test_glass_and_constant_patches_make_no_mess(name, norm):
    image, norm, net = white_slides()[name], Norm.parse(norm), generator(seed=3)
    for glass in (None, islands(image)):  # glass that nobody told of, and glass that is known
        (out,) = translate([net], image, norm=norm, background=glass, pitch=64, tile=128)
        blocks = out.reshape(16, 16, 24, 16, 3).mean((1, 3, 4))
        assert blocks.min() > 20  # neither black
        assert blocks.max() < 244  # nor blown out
    opacity = islands(image).opacity(Size(256, 384).region)
    np.testing.assert_array_equal(out[opacity == 0], image[opacity == 0])
    assert (opacity == 0).any() == (name in ("white", "half", "island"))
    assert (out[opacity == 1] != image[opacity == 1]).any() == (name != "white")


def test_tissue_is_stained_alike_whether_glass_or_tissue_is_beside_it():
    """The nodes on glass are filled, so that near its edge tissue is normalised as tissue."""
    tissue, half = texture(256, 384), white_slides()["half"]
    net = generator(seed=3, blocks=0)
    full, beside = (
        translate([net], image, background=islands(image), pitch=64)[0].astype(float)
        for image in (tissue, half)
    )
    away = np.abs(full - beside)[:, : 128 - net.halo].mean(0).mean(1)
    assert (away[:32] == 0).all()  # before the last node on tissue but one nothing differs
    assert away.mean() < 4


def test_glass_fades_into_tissue():
    image, net = white_slides()["half"], generator(seed=3)
    glass = islands(image)
    (stained,) = translate([net], image, pitch=64, norm=Norm("tin"))
    (mixed,) = translate([net], image, pitch=64, norm=Norm("tin"), background=glass)
    opacity = glass.opacity(Size(256, 384).region)[:, :, None]
    assert 0.02 < np.logical_and(opacity > 0, opacity < 1).mean() < 0.3
    np.testing.assert_allclose(mixed, opacity * stained + (1 - opacity) * image, atol=1.01)
    dense = [translate([net], image, background=glass, pitch=64, tile=tile)[0] for tile in (64, 4096)]
    np.testing.assert_array_equal(*dense)


def test_glass_costs_nothing():
    class Counting(OneNorm):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Counting.calls += 1
            return super().forward(x)

    image = he_image(256, tissue=False)
    glass = BackgroundMap(np.zeros((16, 16), bool), 16)
    stream = StreamTranslator([Counting()], Size(256, 256), background=glass, pitch=64, tile=64)
    Counting.calls = 0
    out = np.concatenate([rows for _, rows in stream.push(image)])
    assert Counting.calls == 0
    np.testing.assert_array_equal(out, image)


def test_nothing_is_left_to_do():
    stream = StreamTranslator([OneNorm()], Size(100, 100), start=100)
    assert (stream.first_source_row, stream.rows_alive, list(stream.push(texture(10, 100)))) == (100, 0, [])


def test_a_late_start_reads_no_more_than_it_needs():
    stream = StreamTranslator([OneNorm()], Size(4096, 256), pitch=128, tile=256, start=2000)
    # its tile begins at 1792, between nodes 13 and 14; node 12 may fill 13
    assert stream.first_source_row == 12 * 128


def test_low_precision_stays_near():
    image = texture(200, 230)
    exact, rough = (
        translate([generator()], image, pitch=64, tile=64, dtype=dtype)[0].astype(int)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert np.abs(exact - rough).mean() < 2
    again = translate([generator()], image, pitch=64, tile=64, dtype=torch.bfloat16, chop=50, start=140)[0]
    np.testing.assert_array_equal(again, rough[140:])


class Broken(OneNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 0


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(InvalidValueError, match="NaN or infinity"):
        translate([Broken()], texture(64))


class NoHalo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(3)


@pytest.mark.parametrize(
    ("nets", "options", "message"),
    [
        ([], {}, "at least one"),
        ([NoHalo()], {}, "halo"),
        ([Blur()], {}, "InstanceNorm2d"),
        ([generator(blocks=0).__class__(width=4, in_channels=1)], {}, "3 in_channels"),
        ([OneNorm()], {"tile": 66}, "tile must be a multiple of 4"),
        ([OneNorm()], {"tile": 32}, "at least 64"),
        ([OneNorm()], {"pitch": 130}, "stats_pitch"),
        ([OneNorm()], {"norm": Norm("tin")}, "prepare_constant"),
        ([OneNorm()], {"constant": [[]]}, "prepare_constant"),
    ],
)
def test_bad_input_is_refused(nets, options, message):
    with pytest.raises(InvalidValueError, match=message):
        StreamTranslator(nets, Size(100, 100), **options)


def test_more_rows_than_the_slide_has_are_refused():
    stream = StreamTranslator([OneNorm()], Size(100, 100))
    with pytest.raises(InvalidValueError, match="100 rows"):
        list(stream.push(np.zeros((101, 100, 3), np.uint8)))


def test_an_empty_slide_is_refused():
    with pytest.raises(InvalidValueError, match="at least 1 x 1"):
        StreamTranslator([OneNorm()], Size(0, 100))
