import pytest
import torch
from torch import nn

from wsigen.errors import OutputError
from wsigen.nn.ema import PowerEMA
from wsigen.training.state import CHECKPOINT, RunState


def make_state(width=4):
    torch.manual_seed(0)
    step = nn.Sequential(nn.Linear(width, width))
    optimizer = torch.optim.AdamW(step.parameters(), lr=0.01)
    return RunState({"step": step, "ema": PowerEMA(step), "optimizer": optimizer})


def update(state, seed):
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
    step, ema, optimizer = state.parts.values()
    step(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    state.update += 1
    state.images += 8
    ema.update(step, state.update)


def test_continuing_equals_never_stopping(tmp_path):
    straight = make_state()
    for seed in range(6):
        update(straight, seed)
    first = make_state()
    for seed in range(3):
        update(first, seed)
    first.save(tmp_path)
    second = make_state()
    assert second.load(tmp_path)
    assert (second.update, second.images) == (3, 24)
    for seed in range(3, 6):
        update(second, seed)
    for name in ("step", "ema"):
        for key, value in straight.parts[name].state_dict().items():
            assert torch.equal(value, second.parts[name].state_dict()[key])


def test_nothing_to_continue(tmp_path):
    assert not make_state().load(tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no checkpoint"])
def test_damaged_checkpoint_is_refused(tmp_path, damage):
    make_state().save(tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(OutputError, match="use another --run_dir"):
        make_state().load(tmp_path)


def test_checkpoint_of_another_network_is_refused(tmp_path):
    make_state(width=5).save(tmp_path)
    with pytest.raises(OutputError, match="does not fit this configuration"):
        make_state(width=4).load(tmp_path)


def test_failed_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    state = make_state()
    state.save(tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="make room"):
        state.save(tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]


def test_full_disk_keeps_the_old_checkpoint(small_disk):
    make_state(width=8).save(small_disk)
    before = (small_disk / CHECKPOINT).read_bytes()
    with pytest.raises(OutputError, match=r"checkpoint\.pt: cannot be written .*(free some space|make room)"):
        make_state(width=200).save(small_disk)
    assert (small_disk / CHECKPOINT).read_bytes() == before
    assert [p.name for p in small_disk.iterdir()] == [CHECKPOINT]


def test_checkpoint_that_does_not_tell_of_validation_can_be_continued(tmp_path):
    state = make_state()
    state.validated = 24
    state.save(tmp_path)
    assert make_state().load(tmp_path)
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert saved.pop("validated") == 24
    torch.save(saved, tmp_path / CHECKPOINT)
    again = make_state()
    assert again.load(tmp_path)
    assert again.validated == -1
