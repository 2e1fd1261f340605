import pytest
import torch

from wsigen.stain.losses.adversarial import discriminator_loss, generator_loss


def test_by_hand():
    real = torch.tensor([[1.0, 0.5], [2.0, -1.0]])  # squares of the distance to 1: 0, 0.25, 1, 4
    fake = torch.tensor([[0.0, 0.5], [-1.0, 3.0]])  # squares: 0, 0.25, 1, 9; distance to 1: 1, 0.25, 4, 4
    assert discriminator_loss(real, fake).item() == 0.5 * (5.25 / 4 + 10.25 / 4)
    assert generator_loss(fake).item() == 9.25 / 4


def test_known_points():
    one, zero, half = torch.ones(2, 1, 5, 5), torch.zeros(2, 1, 5, 5), torch.full((2, 1, 5, 5), 0.5)
    assert discriminator_loss(one, zero) == 0
    assert discriminator_loss(zero, one) == 1
    assert discriminator_loss(half, half) == 0.25
    assert generator_loss(half) == 0.25
    assert generator_loss(one) == 0


def test_maps_of_different_sizes_weigh_the_same():
    real, fake = torch.full((1, 1, 3, 3), 3.0), torch.full((4, 1, 7, 9), 2.0)
    assert discriminator_loss(real, fake) == 0.5 * (4 + 4)


def test_gradients():
    real, fake = torch.tensor([0.2, 0.6], requires_grad=True), torch.tensor([0.3, -0.1], requires_grad=True)
    discriminator_loss(real, fake).backward()
    torch.testing.assert_close(real.grad, torch.tensor([-0.4, -0.2]))  # (D − 1) / n
    torch.testing.assert_close(fake.grad, torch.tensor([0.15, -0.05]))  # D / n
    fake.grad = None
    generator_loss(fake).backward()
    torch.testing.assert_close(fake.grad, torch.tensor([-0.7, -1.1]))  # 2 (D − 1) / n


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_answers_are_averaged_in_float32(dtype):
    answers = torch.full(
        (1, 1, 300, 300), 0.5, dtype=dtype
    )  # a sum of 22500 would be coarse in half precision
    loss = discriminator_loss(answers, answers)
    assert loss.dtype == torch.float32
    assert loss == 0.25
