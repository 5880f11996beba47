import itertools

import pytest
import torch

from mdistiller.dataset import AUGMENTATIONS, ImageSet, Loader
from mdistiller.errors import UserError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def image_set(count=50, size=32):
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    return ImageSet(images, torch.arange(count) % 7, [str(name) for name in range(7)])


def loader(augment="weak", batch_size=16, seed=0, shuffle=True, data=None, **options):
    return Loader(data or image_set(), batch_size, MEAN, STD, augment, shuffle, seed, **options)


def images_of(epoch):
    return torch.cat([batch["image"] for batch in epoch])


def values_of(batches):
    return [{key: value.tolist() for key, value in batch.items()} for batch in batches]


def indices_of(epoch):
    return torch.cat([batch["index"] for batch in epoch])


def test_without_augmentation_the_images_come_in_order_and_normalised():
    data = image_set()
    batches = list(loader("none", shuffle=False, data=data))
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    assert torch.equal(images_of(batches), (data.images / 255 - mean) / std)
    assert torch.equal(torch.cat([batch["target"] for batch in batches]), data.targets)
    assert indices_of(batches).tolist() == list(range(50))


def test_a_batch_has_the_promised_types():
    batch = next(iter(loader()))
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        "image": torch.float32,
        "target": torch.int64,
        "index": torch.int64,
    }
    assert batch["image"].shape == (16, 3, 32, 32)


@pytest.mark.parametrize(("batch_size", "sizes"), [(16, [16, 16, 16, 2]), (25, [25, 25]), (64, [50])])
def test_the_last_partial_batch_is_kept(batch_size, sizes):
    batches = loader(batch_size=batch_size)
    assert [len(batch["target"]) for batch in batches] == sizes
    assert len(batches) == len(sizes)


@pytest.mark.parametrize("batch_size", [64, 1000, 1500])
def test_batches_are_whole_across_chunks(batch_size):
    data = image_set(count=3001, size=4)
    sizes = [len(batch["target"]) for batch in loader(batch_size=batch_size, data=data)]
    assert sizes[:-1] == [batch_size] * (3001 // batch_size) and sum(sizes) == 3001


@pytest.mark.parametrize("augment", ["none", "weak", "strong"])
def test_an_epoch_shows_every_image_once_in_another_order_each_time(augment):
    batches = loader(augment)
    first, second = indices_of(batches), indices_of(batches)
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(50))
    assert not torch.equal(first, second)


def test_weak_and_strong_shows_every_image_twice():
    batches = loader("weak+strong")
    assert batches.num_images_per_epoch == 100
    assert indices_of(batches).bincount().tolist() == [2] * 50


def test_weak_and_strong_distorts_exactly_one_of_the_two_views(monkeypatch):
    monkeypatch.setattr("mdistiller.dataset.loaders.distort", lambda images, *_: images + 100)
    data = image_set()
    data.images[:] = torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1)
    options = {"shuffle": True, "weak_view": lambda images, _: images}
    batches = Loader(data, 16, (0, 0, 0), (1, 1, 1), "weak+strong", **options)
    values = (images_of(batches)[:, 0, 0, 0] * 255).round().int()
    assert values.sort().values.tolist() == [*range(50), *range(100, 150)]


def test_weak_and_strong_mixes_both_views_in_a_batch(monkeypatch):
    monkeypatch.setattr("mdistiller.dataset.loaders.distort", lambda images, *_: torch.full_like(images, 255))
    batches = Loader(image_set(), 50, (0, 0, 0), (1, 1, 1), "weak+strong", shuffle=True)
    strong_views = [(batch["image"].amin((1, 2, 3)) == 1).sum().item() for batch in batches]
    assert sum(strong_views) == 50 and min(strong_views) > 10


def test_target_and_index_belong_to_the_image():
    data = image_set()
    data.images[:] = torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1)
    for batch in Loader(data, 16, (0, 0, 0), (1, 1, 1), "weak", shuffle=True):
        centre = (batch["image"][:, 0, 16, 16] * 255).round().long()
        assert torch.equal(centre, batch["index"])
        assert torch.equal(centre % 7, batch["target"])


@pytest.mark.parametrize("augment", ["none", "weak", "strong", "weak+strong"])
def test_the_same_seed_gives_the_same_batches(augment):
    assert torch.equal(images_of(loader(augment)), images_of(loader(augment)))


@pytest.mark.parametrize("augment", ["none", "weak", "strong", "weak+strong"])
def test_another_seed_gives_other_batches(augment):
    assert not torch.equal(images_of(loader(augment, seed=0)), images_of(loader(augment, seed=1)))


@pytest.mark.parametrize("seed", [1, 2**32, 2**63])
def test_another_seed_gives_another_order(seed):
    assert not torch.equal(indices_of(loader(seed=seed)), indices_of(loader(seed=0)))


def test_no_two_chunks_are_augmented_alike(monkeypatch):
    monkeypatch.setattr("mdistiller.dataset.loaders.CHUNK", 32)
    drawn = []
    batches = loader(weak_view=lambda images, draws: drawn.append(draws.generator.initial_seed()) or images)
    images_of(batches), images_of(batches)
    assert len({*drawn}) == len(drawn) == 4


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("chunk", [4, 12, 100])
def test_a_state_goes_on_after_any_batch_as_if_nothing_had_happened(monkeypatch, augment, chunk):
    monkeypatch.setattr("mdistiller.dataset.loaders.CHUNK", chunk)
    options = {"batch_size": 4, "data": image_set(count=18, size=8)}
    whole, resumed = loader(augment, **options), loader(augment, **options)
    states, batches = [whole.state_dict()], []
    for batch in itertools.chain(whole, whole):
        states.append(whole.state_dict())
        batches += values_of([batch])
    for count, state in enumerate(states[:-1]):
        resumed.load_state_dict(state)
        left = len(whole) - count % len(whole)
        assert values_of(resumed) == batches[count : count + left]


def test_a_resumed_epoch_is_followed_by_the_whole_next_one():
    whole, resumed = loader(), loader()
    images_of(whole)
    resumed.load_state_dict({"epoch": 0, "batch": 2})
    images_of(resumed)
    assert values_of(resumed) == values_of(whole)


def test_the_state_counts_finished_epochs_and_the_batches_that_were_handed_out():
    batches = loader()
    states = [batches.state_dict(), *(batches.state_dict() for _ in batches), batches.state_dict()]
    counts = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 0)]
    assert states == [{"epoch": epoch, "batch": batch} for epoch, batch in counts]


def test_a_loaded_state_stays_until_a_batch_is_handed_out():
    batches, state = loader(), {"epoch": 3, "batch": 2}
    batches.load_state_dict(state)
    iter(batches)
    assert batches.state_dict() == state


def test_an_iteration_that_was_broken_off_starts_anew():
    batches, expected = loader("weak+strong"), values_of(loader("weak+strong"))
    next(iter(batches))
    assert values_of(batches) == expected


def test_an_epoch_that_was_resumed_and_broken_off_starts_anew():
    batches, expected = loader(), values_of(loader())
    batches.load_state_dict({"epoch": 0, "batch": 2})
    next(iter(batches))
    assert values_of(batches) == expected


def test_an_epoch_is_finished_when_its_last_batch_is_handed_out():
    batches = loader()
    first = indices_of(itertools.islice(batches, len(batches)))
    assert not torch.equal(first, indices_of(batches))


def test_evaluation_draws_nothing(monkeypatch):
    monkeypatch.setattr(torch, "randperm", None)
    monkeypatch.setattr(torch, "randint", None)
    monkeypatch.setattr(torch, "rand", None)
    data = ImageSet(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.arange(5), ["a"])
    batches = loader("none", shuffle=False, data=data)
    assert indices_of(batches).tolist() == indices_of(batches).tolist() == [*range(5)]


def test_the_state_can_be_read_from_a_weight_file(tmp_path):
    state = loader().state_dict()
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state


def test_the_memory_format_is_the_one_asked_for():
    batch = next(iter(loader(memory_format=torch.channels_last)))
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch["image"], next(iter(loader()))["image"])


def test_the_global_random_state_is_not_touched():
    before = torch.get_rng_state()
    images_of(loader("weak+strong"))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(UserError, match=r"'heavy'.*none, weak, strong, weak\+strong"):
        loader("heavy")


def test_an_empty_batch_is_refused():
    with pytest.raises(UserError, match=r"SOLVER\.BATCH_SIZE"):
        loader(batch_size=0)


def test_two_views_hold_each_image_once_weakly_and_strongly_augmented():
    data = image_set()
    batches = list(loader("two-view", data=data))
    assert sorted(indices_of(batches).tolist()) == list(range(50))
    assert loader("two-view", data=data).num_images_per_epoch == 50
    for batch in batches:
        assert torch.equal(batch["image_weak"], batch["image"])
        assert batch["image_strong"].shape == batch["image"].shape
        assert not torch.equal(batch["image_strong"], batch["image"])
