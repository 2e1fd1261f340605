"""The server answers for what was named, to those who asked for it by its name, and to nobody else."""

from __future__ import annotations

import io
import json
import socket
import sys
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from tests.pipeline.models import small_net
from tests.sampling.upscalers import small_upscaler
from tests.stain.models import small_generator
from tests.synthetic import damage_tile, write_tiff
from tests.viewer.slides import ask, write_pair
from wsigen.cli import main
from wsigen.config import SampleConfig
from wsigen.config.view import ViewConfig
from wsigen.errors import InvalidValueError
from wsigen.nn.model import save_model
from wsigen.pipeline.sample import sample
from wsigen.slide.codec import JPEG
from wsigen.slide.stains import POSITIVE_DAB, stain_densities
from wsigen.stain.stainer import save_stainer
from wsigen.viewer.catalogue import Catalogue, open_catalogue
from wsigen.viewer.heatmap import Heatmap
from wsigen.viewer.http import address, listen
from wsigen.viewer.run import computed_cases
from wsigen.viewer.server import make_app


@pytest.fixture(scope="module")
def folder(he_picture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    write_pair(folder, he_picture[:600, :520])
    (folder / "case_HE.geojson").write_text(json.dumps({"type": "Point", "coordinates": [3, 4]}))
    (folder / "secret.txt").write_text("secret")
    write_tiff(folder.parent / "outside_of_it.tif", he_picture[:64, :64], 0.5, levels=1)
    (folder / "link.svs.txt").symlink_to(folder.parent / "outside_of_it.tif")
    return folder


@pytest.fixture(scope="module")
def app(folder):
    return make_app(open_catalogue([folder]))


def test_page_and_its_parts(app):
    page = ask(app, "/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert b"/static/viewer.js" in page.body
    assert b"http" not in page.body.replace(b"http-equiv", b"")  # nothing from elsewhere
    assert b"6.1.1" in ask(app, "/static/openseadragon.min.js").body[:30]
    assert b"Redistribution" in ask(app, "/static/openseadragon.LICENSE.txt").body
    for name in ("viewer.js", "viewer.css"):
        assert ask(app, f"/static/{name}").status == 200


def test_tiles_are_the_slide(app, he_picture):
    answer = ask(app, "/slides/case_HE_files/10/1_0.jpeg")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
    shown = np.asarray(Image.open(io.BytesIO(answer.body)), int)
    assert np.abs(shown - he_picture[:256, 256:512]).mean() < 4
    negative = np.asarray(
        Image.open(io.BytesIO(ask(app, "/slides/case_IHC-SYN_files/10/1_0.jpeg").body)), int
    )
    assert np.abs(255 - negative - shown).mean() < 6
    edge = Image.open(io.BytesIO(ask(app, "/slides/case_HE_files/10/2_2.jpeg").body))
    assert edge.size == (520 - 512, 600 - 512)
    assert Image.open(io.BytesIO(ask(app, "/slides/case_HE_files/0/0_0.jpg").body)).size == (1, 1)
    assert b'Height="600"' in ask(app, "/slides/case_HE.dzi").body
    assert ask(app, "/overlays/case_HE/case_HE.geojson").json[0]["parts"] == [[[3, 4]]]


@pytest.mark.parametrize(
    "path",
    [
        "/slides/case_HE_files/11/0_0.jpeg",
        "/slides/case_HE_files/10/3_0.jpeg",
        "/slides/case_HE_files/10/0_3.jpeg",
        "/slides/case_HE_files/-1/0_0.jpeg",
        "/slides/case_HE_files/10/-1_0.jpeg",
        "/slides/case_HE_files/10/0_0.png",
        "/slides/case_HE_files/1e1/0_0.jpeg",
        "/slides/case_HE_files/١٠/0_0.jpeg",
        f"/slides/case_HE_files/{'9' * 5000}/0_0.jpeg",
        f"/slides/case_HE_files/10/{'9' * 5000}_0.jpeg",
        "/slides/none.dzi",
        "/slides/seed:7:HE.dzi",
        "/slides/seed%3A7%3AHE_files/0/0_0.jpeg",
    ],
)
def test_numbers_and_names_are_bounded(app, path):
    assert ask(app, path).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt",
        "/static/../viewer/server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e%2f%2e%2e%2fapi.py",
        "/static//etc/passwd",
        "/slides/../secret.txt",
        "/slides/secret.txt",
        "/slides/secret.txt.dzi",
        "/slides/..%2f..%2fetc%2fpasswd.dzi",
        "/slides/%2e%2e%2foutside_of_it.dzi",
        "/slides/outside_of_it.dzi",
        "/slides/link.svs.dzi",
        "/slides//etc/passwd.dzi",
        "/slides/%00.dzi",
        "/slides/case_HE.ome.tif",
        "/slides/case_HE.dzi/../../secret.txt",
        "/slides/..%5c..%5csecret.txt.dzi",
        "/slides/%252e%252e%252fsecret.txt.dzi",
        "/overlays/case_HE/..%2fsecret.txt",
        "/overlays/case_HE/secret.txt",
        "/overlays/../secret.txt",
        "//etc/passwd",
    ],
)
def test_nothing_but_what_was_named_is_served(app, folder, path):
    for form in (path, path.replace("/etc/passwd", str(folder / "secret.txt"))):
        answer = ask(app, form)
        assert answer.status == 404
        assert b"secret" not in answer.body
        assert b"root:" not in answer.body


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8765", 200),
        ("localhost:8765", 200),
        ("LOCALHOST", 200),
        ("[::1]:8765", 200),
        ("evil.example", 421),
        ("evil.example:8765", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("10.0.0.1", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_only_hosts_that_are_this_server(app, host, status):
    assert ask(app, "/catalogue.json", host=host).status == status


def test_all_addresses_when_asked_to_listen_on_all(folder):
    app = make_app(Catalogue([]), host="0.0.0.0")
    hosts = {"10.0.0.1:8765": 200, "[fe80::1]": 200, socket.gethostname(): 200, "evil.example": 421}
    assert {host: ask(app, "/catalogue.json", host=host).status for host in hosts} == hosts


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_is_written(app, method):
    for path in ("/", "/catalogue.json", "/slides/case_HE.dzi"):
        assert ask(app, path, method=method).status == 405


def test_other_pages_get_nothing(app):
    headers = ask(app, "/slides/case_HE_files/10/0_0.jpeg").headers
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers
    assert "immutable" in headers["cache-control"]
    assert ask(app, "/catalogue.json").headers["cache-control"] == "no-store"


def test_damaged_tiles_are_errors_that_say_so_and_the_others_are_shown(he_picture, tmp_path, caplog):
    path = write_tiff(tmp_path / "a.tif", he_picture, 0.5, levels=1)
    damage_tile(path, "shorter", index=5)
    app = make_app(open_catalogue([path]))
    answer = ask(app, "/slides/a_files/10/1_1.jpeg")
    assert answer.status == 500
    assert b"a.tif" in answer.body
    assert "a.tif" in caplog.text
    assert ask(app, "/slides/a_files/10/2_1.jpeg").status == 200


def test_tiles_are_kept_within_the_limit(folder, monkeypatch):
    catalogue = open_catalogue([folder])
    entry, reads = catalogue.entry("case_HE"), []
    read = entry.tiles.read
    app = make_app(catalogue, cache=len(read(9, 0, 0)) + 1)
    monkeypatch.setattr(entry.tiles, "read", lambda *at: reads.append(at) or read(*at))
    first = ask(app, "/slides/case_HE_files/9/0_0.jpeg").body
    assert ask(app, "/slides/case_HE_files/9/0_0.jpeg").body == first
    assert reads == [(9, 0, 0)]
    for place in ("0_0", "1_0", "0_1", "1_1"):
        ask(app, f"/slides/case_HE_files/10/{place}.jpeg")
    ask(app, "/slides/case_HE_files/9/0_0.jpeg")
    assert reads.count((9, 0, 0)) == 2


# ---- heat maps of DAB

BROWN, PALE = (165, 125, 95), (205, 200, 215)


def write_ihc(folder, size=(1100, 2200), mpp=1.0):
    """Pale tissue on glass, with DAB at x 512 … 768, y 256 … 512; the tissue ends 128 px before the edges."""
    image = np.full((*size, 3), 245, np.uint8)
    image[128:-128, 128:-128] = PALE
    image[256:512, 512:768] = BROWN
    write_tiff(folder / "a_IHC-SYN.ome.tif", image, mpp, levels=2, compression="zstd")
    return image


def heatmap_of(app, name="a_IHC-SYN"):
    answer = ask(app, f"/slides/{name}.dab.png")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    return np.asarray(Image.open(io.BytesIO(answer.body)))


def test_a_heat_map_is_coloured_where_there_is_dab_and_transparent_elsewhere(tmp_path):
    write_ihc(tmp_path)
    app = make_app(open_catalogue([tmp_path]))
    shown = heatmap_of(app)
    assert shown.shape == (138, 275, 4)  # 8 µm/px
    opaque = np.zeros((138, 275), bool)
    opaque[32:64, 64:96] = True
    assert np.array_equal(shown[..., 3], np.where(opaque, 255, 0))
    listed = ask(app, "/catalogue.json").json
    assert listed["cases"][0]["slides"][0]["heatmap_um"] == 2200
    # plasma from 0.2 to 1 OD
    density = float(stain_densities(np.uint8([[BROWN]]), (245, 245, 245), "h-dab")[0, 0, 2])
    assert 0.45 < density < 0.65  # neither of the ends
    legend = listed["heatmap"]
    assert (legend["low"], legend["high"], len(legend["colors"])) == (POSITIVE_DAB, 1.0, 6)
    assert (legend["colors"][0], legend["colors"][-1]) == ("#0d0887", "#f0f921")
    share = (density - POSITIVE_DAB) / (1 - POSITIVE_DAB)
    wanted = 255 * np.array(colormaps["plasma"](share)[:3])
    assert np.abs(shown[40, 80, :3] - wanted).max() < 4


def test_the_size_of_a_heat_map_is_bounded(tmp_path, monkeypatch):
    write_ihc(tmp_path)
    monkeypatch.setattr("wsigen.viewer.heatmap.MOST_PIXELS", 64)
    app = make_app(open_catalogue([tmp_path]))
    shown = heatmap_of(app)
    assert shown.shape == (18, 35, 4)  # 2200 px at 64 µm/px
    assert (shown[4:8, 8:12, 3] == 255).all()
    assert not shown[:3, :, 3].any()
    # its last pixel reaches past the slide
    assert ask(app, "/catalogue.json").json["cases"][0]["slides"][0]["heatmap_um"] == 35 * 64


def test_a_heat_map_is_computed_once(tmp_path, monkeypatch):
    write_ihc(tmp_path)
    app, made = make_app(open_catalogue([tmp_path])), []
    png = Heatmap.png
    monkeypatch.setattr(Heatmap, "png", lambda self: made.append(self) or png(self))
    assert np.array_equal(heatmap_of(app), heatmap_of(app))
    assert len(made) == 1


def test_only_ihc_slides_in_files_have_a_heat_map(app, computed):
    refused = {
        "case_HE": b"only IHC slides",
        "none": b"no such slide",
        "..%2fcase_IHC-SYN": b"",
        "seed:3:IHC-SYN": b"no such slide",
    }
    for name, why in refused.items():
        answer = ask(app, f"/slides/{name}.dab.png")
        assert answer.status == 404
        assert why in answer.body
    answer = ask(computed, "/slides/seed:3:IHC-SYN.dab.png")
    assert (answer.status, answer.body) == (404, b"only IHC slides in files have a heat map")
    assert heatmap_of(app, "case_IHC-SYN").shape[2] == 4
    he, ihc = ask(app, "/catalogue.json").json["cases"][0]["slides"]
    assert (he["heatmap_um"], ihc["heatmap_um"]) == (None, 130)  # 520 px of 0.25 µm, at 2 µm/px


# ---- slides that are computed


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder / "small", denoiser=small_net(), upscaler=small_upscaler())
    save_stainer(small_generator(blocks=0, marker="SYN", mpp=0.5), folder / "SYN")
    return {
        "size": 512,
        "stages": 3,
        "model": str(folder / "small"),
        "stain": str(folder / "SYN"),
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def computed(values):
    seeds = computed_cases(ViewConfig(seed=3, **values))
    return make_app(open_catalogue([], seeds=seeds, first_seed=3))


def test_a_computed_slide_has_the_tiles_of_its_file(computed, values, tmp_path):
    """Byte for byte: the file keeps its tiles as the viewer would encode them."""
    sample(SampleConfig(seed=3, **values, preset="one-step", out=tmp_path, name="a"))
    written = make_app(open_catalogue([tmp_path]))
    for stain in ("HE", "IHC-SYN"):
        for place in ("0_0", "1_1"):
            tile = ask(computed, f"/slides/seed:3:{stain}_files/9/{place}.jpeg")
            assert tile.status == 200
            shown, kept = (
                JPEG.decode(tile.body),
                JPEG.decode(ask(written, f"/slides/a_{stain}_files/9/{place}.jpeg").body),
            )
            assert np.array_equal(shown, kept)


def test_seeds_are_listed_and_computed_on_request(computed):
    listed = ask(computed, "/catalogue.json").json
    assert (listed["seed"], listed["cases"][0]["title"]) == (3, "Seed 3")
    he, ihc = listed["cases"][0]["slides"]
    assert (he["name"], ihc["name"], he["computed"], he["synthetic"]) == (
        "seed:3:HE",
        "seed:3:IHC-SYN",
        True,
        True,
    )
    assert (he["width"], he["mpp"], he["provenance"]["seed"]) == (512, 0.5, "3")
    other = ask(computed, "/catalogue.json?seed=4").json
    assert other["cases"][0]["slides"][0]["name"] == "seed:4:HE"
    tiles = [ask(computed, f"/slides/seed%3A{seed}%3AHE_files/6/0_0.jpeg").body for seed in (3, 4, 3)]
    assert tiles[0] == tiles[2] != tiles[1]
    for wrong in ("-1", "x", str(2**63), "9" * 5000):
        assert ask(computed, f"/catalogue.json?seed={wrong}").status == 400
    for name in ("seed:99999999999999999999:HE", f"seed:{2**63}:HE", "seed:3:IHC-CGA", "seed:3:"):
        assert ask(computed, f"/slides/{name}.dzi").status == 404


def test_few_computed_slides_are_kept(values):
    made = []
    seeds = computed_cases(ViewConfig(seed=0, **values))
    catalogue = Catalogue([], seeds=lambda seed: made.append(seed) or seeds(seed))
    for seed in (0, 1, 0, 2, 0, 1):
        assert catalogue.seed_case(seed).title == f"Seed {seed}"
    assert made == [0, 1, 2, 1]


# ---- the command


def refused(*argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main.main(["view", *map(str, argv)])
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("wsigen view: error: ")
    return error


def test_mistakes_are_one_line(folder, values, tmp_path, capsys):
    assert "SLIDES must be slides or folders" in refused(capsys=capsys)
    assert "--stain must be given with --seed" in refused(folder, "--stain", "SYN", capsys=capsys)
    assert "--port must be between" in refused(folder, "--port", 70000, capsys=capsys)
    assert "--cache must be an amount" in refused(folder, "--cache", "much", capsys=capsys)
    assert "--mpp must be a number" in refused(folder, "--mpp", -1, capsys=capsys)
    assert "no such file" in refused(tmp_path / "none.svs", "--port", 0, capsys=capsys)
    assert "no slide in this folder" in refused(tmp_path, "--port", 0, capsys=capsys)
    model = ("--model", values["model"], "--device", "cpu", "--port", 0)
    assert "size must be" in refused("--seed", 1, "--size", 0, *model, capsys=capsys)
    assert "--host nowhere.invalid" in refused(folder, "--host", "nowhere.invalid", capsys=capsys)


def test_a_port_that_is_taken_is_named(folder, capsys):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        error = refused(folder, "--port", port, capsys=capsys)
    assert f"--port {port} (Address already in use)" in error
    assert "--port 0" in error


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_what_is_not_installed_is_named(folder, monkeypatch, capsys, missing):
    for name in [n for n in sys.modules if n.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert "pip install 'wsigen[view]'" in refused(folder, "--port", 0, capsys=capsys)


def test_answers_are_not_held_back():
    with listen("127.0.0.1", 0) as sock, socket.create_connection(sock.getsockname()):
        connection, _ = sock.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_addresses():
    with listen("0.0.0.0", 0) as sock:
        assert address(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}/"
    if socket.has_ipv6:
        try:
            sock = listen("::1", 0)
        except InvalidValueError:
            return
        with sock:
            assert address(sock).startswith("http://[::1]:")


def test_slides_of_the_command_line(monkeypatch):
    from tests.commands import parsed

    config, _ = parsed(
        "view",
        ["a.svs", "b", "--overlay", "x.geojson", "--overlay=y.geojson", "c", "--no-browser"],
        monkeypatch,
    )
    assert config.slides == ["a.svs", "b", "c"]
    assert config.overlay == ["x.geojson", "y.geojson"]
    assert config.no_browser
    assert config.port == 8765


def test_in_a_notebook(folder: Path) -> None:
    import wsigen

    slide = wsigen.open_slide(folder / "case_HE.ome.tif")
    viewing = wsigen.view(slide)
    try:
        assert viewing.url in viewing._repr_html_()
        with urlopen(f"{viewing.url}catalogue.json", timeout=10) as answer:
            (case,) = json.load(answer)["cases"]
        (shown,) = case["slides"]
        assert (shown["width"], shown["mpp"], shown["synthetic"]) == (520, 0.25, True)
        with urlopen(f"{viewing.url}slides/{shown['name']}_files/10/0_0.jpeg", timeout=10) as answer:
            assert Image.open(answer).size == (256, 256)
    finally:
        viewing.close()
    with pytest.raises(OSError, match="refused"):
        urlopen(viewing.url, timeout=1)
