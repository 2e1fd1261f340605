import pytest
import torch

from wsigen.errors import InvalidValueError
from wsigen.stain.losses.adversarial import ImagePool, discriminator_loss, generator_loss, l1


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


def numbered(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2).clone()


def feed(pool, first, last, batch=1):
    """Hand in images that are their own number; the numbers that come back."""
    back = []
    for n in range(first, last, batch):
        numbers = list(range(n, min(n + batch, last)))
        back += pool.exchange(numbered(*numbers), numbers)[:, 0, 0, 0].int().tolist()
    return back


def test_l1_by_hand():
    made = torch.tensor([1.0, -1.0, 0.5, 0.0]).reshape(1, 1, 2, 2).requires_grad_()
    wanted = torch.tensor([0.0, -1.0, 1.0, 2.0]).reshape(1, 1, 2, 2)
    loss = l1(made, wanted)
    assert loss.item() == (1 + 0 + 0.5 + 2) / 4
    loss.backward()
    assert made.grad.flatten().tolist() == [0.25, 0, -0.25, -0.25]


def test_l1_in_half_precision_is_averaged_in_float32():
    loss = l1(torch.ones(1, 3, 128, 128, dtype=torch.bfloat16), torch.zeros(1, 3, 128, 128))
    assert loss.dtype == torch.float32
    assert loss == 1


def test_cycle_is_zero_for_inverse_generators():
    x, y = (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    assert l1((x * 2) / 2, x) + l1((y / 2) * 2, y) == 0
    assert l1(-x, x).item() == pytest.approx(2 * x.abs().mean().item())


def test_pool_fills_before_it_gives_old_images():
    pool = ImagePool(5)
    assert feed(pool, 0, 5) == list(range(5))
    assert len(pool) == 5


def test_nothing_is_lost_and_nothing_comes_twice():
    pool = ImagePool(7, seed=1)
    back = feed(pool, 0, 7)  # copies: these stay in the pool
    later = feed(pool, 7, 200)
    held = pool.state_dict()["images"][:, 0, 0, 0].int().tolist()
    assert sorted(later + held) == list(range(200))
    assert back == list(range(7))


def test_half_come_back_as_they_are_and_places_are_uniform():
    pool = ImagePool(4, seed=2)
    feed(pool, 0, 4)
    new = old = 0
    places = [0] * 4
    for n in range(4, 2004):
        before = pool.state_dict()["images"][:, 0, 0, 0].int().tolist()
        (back,) = feed(pool, n, n + 1)
        new += back == n
        if back != n:
            old += 1
            places[before.index(back)] += 1
    assert abs(new - 1000) < 5 * 22.4  # σ = √(2000 / 4)
    assert all(abs(p - old / 4) < 5 * (old * 3 / 16) ** 0.5 for p in places)


def test_batches_are_handled_image_by_image():
    assert feed(ImagePool(6), 0, 60, batch=1) == feed(ImagePool(6), 0, 60, batch=4)


def test_same_seed_same_choices():
    assert feed(ImagePool(6, seed=3), 0, 60) == feed(ImagePool(6, seed=3), 0, 60)
    assert feed(ImagePool(6, seed=3), 0, 60) != feed(ImagePool(6, seed=4), 0, 60)


@pytest.mark.parametrize("stop", [0, 3, 30])
def test_resumed_pool_goes_on_as_if_never_stopped(stop, tmp_path):
    whole = feed(ImagePool(6), 0, 60)
    first, second = ImagePool(6), ImagePool(6)
    begun = feed(first, 0, stop)
    torch.save(first.state_dict(), tmp_path / "pool.pt")
    second.load_state_dict(torch.load(tmp_path / "pool.pt", weights_only=True))
    assert begun + feed(second, stop, 60) == whole


def test_state_is_a_copy():
    pool = ImagePool(2)
    images = numbered(0, 1)
    pool.exchange(images, [0, 1])
    images.fill_(9)
    state = pool.state_dict()
    state["images"].fill_(7)
    assert pool.state_dict()["images"][:, 0, 0, 0].tolist() == [0, 1]


def test_pool_keeps_no_gradients():
    pool = ImagePool(1)
    image = numbered(3).requires_grad_()
    assert not pool.exchange(image * 2, [0]).requires_grad
    assert not pool.state_dict()["images"].requires_grad


def test_old_images_come_in_the_type_of_the_new():
    pool = ImagePool(1)
    feed(pool, 0, 1)
    back = [pool.exchange(numbered(n).bfloat16(), [n]) for n in range(1, 12)]
    assert {b.dtype for b in back} == {torch.bfloat16}


def test_pool_of_size_zero_gives_back_what_it_gets():
    pool = ImagePool(0)
    assert feed(pool, 0, 5, batch=2) == list(range(5))
    assert pool.state_dict() == {}


def test_values_out_of_range():
    with pytest.raises(InvalidValueError, match="0 or more"):
        ImagePool(-1)
    pool = ImagePool(3)
    feed(pool, 0, 3)
    with pytest.raises(InvalidValueError, match="holds 3 images, this run's only 2"):
        ImagePool(2).load_state_dict(pool.state_dict())
