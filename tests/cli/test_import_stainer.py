"""``wsigen import-stainer``."""

import json
import logging

import pytest
import torch

from tests.stain.networks.published import published
from tests.stain.style import published as style
from wsigen.cli.import_stainer import run
from wsigen.cli.main import main
from wsigen.errors import InvalidValueError, OutputError, SnapshotError
from wsigen.nn.snapshot import CONFIG, WEIGHTS
from wsigen.stain.stainer import load_stainer
from wsigen.stain.style.weights import load_style

RECORD = ["--marker", "SYN", "--mpp", "0.5", "--patch-size", "256"]
X = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def checkpoint(tmp_path):
    """What CycleGAN's code writes for two generators, here in one file."""
    nets = {f"netG_{n}": published("cyclegan", seed=s).state_dict() for s, n in enumerate("AB")}
    torch.save(nets, tmp_path / "latest_net_G.pth")
    return tmp_path / "latest_net_G.pth"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "stainers" / "syn"


def test_stainer_from_a_published_file(checkpoint, out, caplog):
    with caplog.at_level(logging.INFO):
        main(["import-stainer", str(checkpoint), "--out", str(out), "--key", "netG_B", *RECORD])
    net = load_stainer(out)
    torch.testing.assert_close(net(X), published("cyclegan", seed=1)(X), rtol=1e-4, atol=1e-5)
    assert [net.config[k] for k in ("marker", "mpp", "patch_size")] == ["SYN", 0.5, 256]
    assert "recognised cyclegan generator" in caplog.text
    assert f"stainer: {out}" in caplog.text
    assert sorted(p.name for p in out.iterdir()) == [CONFIG, WEIGHTS]
    assert str(checkpoint.parent) not in (out / CONFIG).read_text()


def test_stored_precision(checkpoint, out):
    run([str(checkpoint), "--out", str(out), "--key=netG_A"])
    whole = (out / WEIGHTS).stat().st_size
    run([str(checkpoint), "--out", str(out), "--key=netG_A", "--dtype=bfloat16", "--overwrite"])
    assert (out / WEIGHTS).stat().st_size < 0.6 * whole
    assert json.loads((out / CONFIG).read_text())["family"] == "cyclegan"


def test_weights_too_large_for_half_precision(tmp_path, out):
    state = published("cut").state_dict()
    state["model.4.weight"] *= 1e6
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(InvalidValueError, match="do not fit float16; pass --dtype bfloat16"):
        run([str(tmp_path / "a.pth"), "--out", str(out), "--dtype", "float16"])
    assert not out.exists()


def test_norms_are_asked_for_where_the_file_cannot_tell(tmp_path, out):
    torch.save(published("cut", bias=False).state_dict(), tmp_path / "a.pth")
    run([str(tmp_path / "a.pth"), "--out", str(out)])
    assert load_stainer(out).config["norm"] == "none"
    run([str(tmp_path / "a.pth"), "--out", str(out), "--norm", "instance", "--overwrite"])
    net = load_stainer(out)
    torch.testing.assert_close(net(X), published("cut", bias=False)(X), rtol=1e-4, atol=1e-5)


def test_again_only_with_overwrite(checkpoint, out):
    arguments = [str(checkpoint), "--out", str(out), "--key", "netG_A"]
    run(arguments)
    before = (out / WEIGHTS).read_bytes()
    with pytest.raises(OutputError, match="holds a model already; pass --overwrite"):
        run([*arguments[:-1], "netG_B"])
    assert (out / WEIGHTS).read_bytes() == before
    run([*arguments[:-1], "netG_B", "--overwrite"])
    assert (out / WEIGHTS).read_bytes() != before


def test_out_that_cannot_be(checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file; give --out a folder"):
        run([str(checkpoint), "--out", str(tmp_path / "file"), "--key", "netG_A"])
    with pytest.raises(OutputError, match="cannot be written"):
        run([str(checkpoint), "--out", str(tmp_path / "file" / "x"), "--key", "netG_A"])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "several generators: netG_A, netG_B"),
        (["--key", "netG_C"], "holds no generator 'netG_C'"),
    ],
)
def test_nothing_is_written_unless_recognised(checkpoint, out, arguments, match):
    with pytest.raises(SnapshotError, match=match):
        run([str(checkpoint), "--out", str(out), *arguments])
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--mpp", "0"], "mpp must be a positive"),
        (["--marker", "a/b"], "marker must be letters"),
        (["--patch-size", "8"], "patch_size must be at least 16"),
        (["--dtype", "int8"], "dtype"),
        (["--stain", "x"], "stain"),
    ],
)
def test_values_that_cannot_be_are_one_line(checkpoint, out, arguments, named, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["import-stainer", str(checkpoint), "--out", str(out), "--key", "netG_A", *arguments])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2
    assert error.startswith("wsigen import-stainer: error: ")
    assert named in error
    assert not out.exists()


def test_style_network_from_its_two_files(tmp_path, out, caplog):
    for name, make in (("vgg", style.normalised_vgg), ("decoder", style.decoder)):
        torch.save(style.seeded(make).state_dict(), tmp_path / f"{name}.pth")
    arguments = [str(tmp_path / "vgg.pth"), "--decoder", str(tmp_path / "decoder.pth"), "--out", str(out)]
    with caplog.at_level(logging.INFO):
        run([*arguments, "--mpp", "0.5"])
    net = load_style(out)
    vgg, decoder = (style.seeded(make) for make in (style.normalised_vgg, style.decoder))
    torch.testing.assert_close(net(X), 2 * decoder(style.relu4_1(vgg)(X / 2 + 0.5)) - 1)
    assert net.config["mpp"] == 0.5
    assert "recognised AdaIN's normalised VGG-19, width 4" in caplog.text
    with pytest.raises(InvalidValueError, match="--marker is for a generator"):
        run([*arguments, "--marker", "SYN", "--overwrite"])


def test_out_is_needed(checkpoint, capsys):
    with pytest.raises(SystemExit):
        main(["import-stainer", str(checkpoint)])
    assert "out" in capsys.readouterr().err
