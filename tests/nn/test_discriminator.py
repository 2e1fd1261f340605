import torch
import torch.nn.functional as F

from wsigen.nn.discriminator import OCTAVE_GAINS, Discriminator, with_octaves


def test_octaves_of_a_flat_image_are_zero_and_of_a_checkerboard_all_in_the_finest():
    flat = with_octaves(torch.full((1, 3, 16, 16), 0.25))
    assert torch.allclose(flat[:, :3], torch.tensor(0.25))
    assert flat[:, 3:].abs().max() < 1e-6
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    parts = with_octaves(board.expand(1, 3, 16, 16))
    assert torch.allclose(parts[:, 3:6], OCTAVE_GAINS[0] * board.expand(1, 3, 16, 16))
    assert parts[:, 6:].abs().max() < 1e-6


def test_every_head_judges_a_coarser_grid():
    torch.manual_seed(0)
    judge = Discriminator((8, 16, 16, 24))
    x, mpp = torch.randn(2, 3, 64, 64), torch.tensor([0.5, 8.0])
    scores, features = judge(x, mpp)
    assert [tuple(f.shape) for f in features] == [
        (2, 8, 32, 32),
        (2, 16, 16, 16),
        (2, 16, 8, 8),
        (2, 24, 4, 4),
    ]
    assert [tuple(s.shape) for s in scores] == [(2, 1, 16, 16), (2, 1, 8, 8), (2, 1, 4, 4)]
    assert all((judge(x, 2 * mpp).scores[i] - s).abs().mean() > 1e-4 for i, s in enumerate(scores))


def test_it_learns_to_tell_sharp_from_blurred():
    """What the amplified octaves are for: images that differ in their finest detail alone."""
    torch.manual_seed(0)
    judge, mpp = Discriminator((8, 16)), torch.ones(8)
    adam = torch.optim.Adam(judge.parameters(), lr=2e-3, betas=(0.5, 0.99))
    loss = torch.tensor(torch.inf)
    for _ in range(60):
        sharp = 0.05 * torch.randn(8, 3, 32, 32)
        blurred = F.interpolate(F.avg_pool2d(sharp, 2), scale_factor=2, mode="bilinear")
        loss = (
            F.relu(1 - judge(sharp, mpp).scores[0]).mean() + F.relu(1 + judge(blurred, mpp).scores[0]).mean()
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss < 0.5
