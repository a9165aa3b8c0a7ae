"""The square attack against its algorithm in NumPy, from the same draws."""

import numpy as np
import pytest
import tensorflow as tf

from tests.attacks.test_apgd import SHAPE, make
from tfadv.attacks import Square, random_draws, square


def bumps(height, width):
    """The paper's pyramid, as a sum of squares that grow around the middle."""
    heights = np.zeros((height, width))
    for k in range(max(height // 2, width // 2) + 1):
        top, left = height // 2 - k, width // 2 - k
        heights[max(top, 0) : top + 2 * k + 1, max(left, 0) : left + 2 * k + 1] += 1 / (k + 1) ** 2
    return heights


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 9])
def test_bumps(side):
    both = np.concatenate([bumps(side // 2, side), -bumps(side - side // 2, side)])
    both /= np.sqrt((both**2).sum())
    np.testing.assert_allclose(square.pair_of_bumps(side), both, rtol=1e-12)


def test_the_windows_shrink_by_the_schedule():
    sizes = Square(num_queries=9000).window_sizes(32, 32)
    changes = {0: 0.8, 10: 0.8, 11: 0.4, 51: 0.2, 201: 0.1, 501: 0.05, 1001: 0.025, 2001: 0.0125,
               4001: 0.00625, 6001: 0.003125, 8001: 0.0015625}  # fmt: skip
    for query, share in changes.items():
        assert sizes[query] == max(round(np.sqrt(share * 1024)), 1)
    assert sizes[:11] == [29] * 11 and sizes[-1] == 1 and len(sizes) == 9000
    sizes = Square(num_queries=9000, norm="l2").window_sizes(32, 32)
    assert set(sizes) == {29, 21, 15, 11, 7, 5, 3}
    assert Square(num_queries=1).window_sizes(4, 40) == [4]


def windows(sizes, draws, query, shape, at):
    corner = [
        int(draws[query, at + axis]) * (shape[axis] - sizes[query] + 1) // 2**24 for axis in (0, 1)
    ]
    return tuple(slice(start, start + sizes[query]) for start in corner)


def sign(draws):
    return np.where(draws >= 2**23, 1.0, -1.0)


def proposal_linf(image, best, radius, sizes, draws, query):
    rows, columns = windows(sizes, draws, query, image.shape, 0)
    new = best.copy()
    new[rows, columns] += 2 * radius * sign(draws[query, 2:])
    return np.clip(np.clip(new, image - radius, image + radius), 0, 1)


def proposal_l2(image, best, radius, sizes, draws, query):
    delta, channels = best - image, image.shape[-1]
    first, second = (windows(sizes, draws, query, image.shape, at) for at in (0, 2))
    shape = square.pair_of_bumps(sizes[query])
    shape = shape.T if draws[query, 4] >= 2**23 else shape
    freed = np.zeros(image.shape)
    freed[first] = delta[first]
    freed[second] = delta[second]
    freed = (freed**2).sum((0, 1))
    new = np.zeros((sizes[query], sizes[query], channels))
    for channel in range(channels):
        old = delta[first][..., channel]
        length = np.sqrt((old**2).sum())
        pattern = shape * sign(draws[query, 5 + channel]) + (old / length if length else 0)
        pattern /= np.sqrt((pattern**2).sum())
        free = max(radius**2 - (delta**2).sum(), 0) / channels
        new[..., channel] = pattern * np.sqrt(free + freed[channel])
    delta = delta.copy()
    delta[second] = 0
    delta[first] = new
    return np.clip(image + delta / np.sqrt((delta**2).sum()) * radius, 0, 1)


def start_linf(image, radius, draws):
    return np.clip(image + radius * sign(draws), 0, 1)


def start_l2(image, radius, draws):
    tile = max(1, min(image.shape[:2]) // 5)
    pattern, edge = np.zeros(image.shape), [space % tile // 2 for space in image.shape[:2]]
    for row in range(image.shape[0] // tile):
        for column in range(image.shape[1] // tile):
            shape = square.pair_of_bumps(tile)
            shape = shape.T if draws[row, column, 0] >= 2**23 else shape
            top, left = edge[0] + row * tile, edge[1] + column * tile
            pattern[top : top + tile, left : left + tile] = shape[..., None] * sign(
                draws[row, column, 1:]
            )
    return np.clip(image + radius * pattern / np.sqrt((pattern**2).sum()), 0, 1)


@pytest.mark.parametrize("norm, epsilon", [("linf", 12.0), ("l2", 0.2)])
def test_equals_the_algorithm_in_numpy(norm, epsilon):
    model, images, labels = make(0.9, images=8)
    queries = 80
    attack = Square(epsilon, queries, norm=norm)
    keys = np.stack([np.full(8, 2), np.arange(8)], 1)
    result = attack(model, images, labels, value_range=(0, 1), seed=keys).numpy()

    sizes, (height, width, channels) = attack.window_sizes(*SHAPE[:2]), SHAPE
    first = [1, width, channels] if norm == "linf" else [height, width, 1 + channels]
    each = (2 if norm == "linf" else 5) + channels
    first = random_draws.integers("pattern", keys, [8], first, 0, 2**24).numpy()
    draws = random_draws.integers("windows", keys, [8], [queries, each], 0, 2**24).numpy()
    radius = epsilon / 255 if norm == "linf" else epsilon
    start, proposal = (start_linf, proposal_linf) if norm == "linf" else (start_l2, proposal_l2)
    used = []
    for number, (image, label) in enumerate(zip(images.astype(float), labels, strict=True)):

        def margin(point, label=label):
            logits = model.logits(point[None])[0]
            own, logits[label] = logits[label], -np.inf
            return logits.max() - own

        best = start(image, radius, first[number])
        query = 0
        while query < queries and margin(best) <= 0:
            new = proposal(image, best, radius, sizes, draws[number], query)
            best = new if margin(new) > margin(best) else best
            query += 1
        used.append(query)
        np.testing.assert_allclose(result[number], best, atol=1e-4)
    assert min(used) < 10 and max(used) == queries, used


def test_tiles_of_several_pixels_start_l2():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.4, 0.6, (3, 16, 17, 2)).astype("float32")

    def undecided(images):
        return tf.zeros_like(images[:, 0, :2, 0])

    result = Square(0.1, 1, norm="l2")(
        undecided, images, [0, 0, 0], value_range=(0, 1), seed=(1, 2)
    )
    first = random_draws.integers("pattern", (1, 2), [3], [5, 5, 3], 0, 2**24).numpy()
    expected = [start_l2(image, 0.1, draws) for image, draws in zip(images, first, strict=True)]
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm, epsilon", [("linf", 8.0), ("l2", 0.3)])
def test_a_key_per_image_makes_the_batch_irrelevant(norm, epsilon):
    model, images, labels = make(0.5)
    attack = Square(epsilon, 30, norm=norm)
    keys = np.stack([np.full(12, 5), np.arange(12)], 1)

    def run(rows, attack=attack):
        given = {"value_range": (0, 1), "seed": keys[rows]}
        return attack(model, images[rows], labels[rows], **given).numpy()

    whole = run(np.arange(12))
    np.testing.assert_allclose(run(np.array([7, 0, 4])), whole[[7, 0, 4]], atol=1e-5)
    compiled = run(np.arange(12), attack.replace(jit_compile=True))
    assert np.mean(np.abs(compiled - whole) < 1e-5) > 0.9


@pytest.mark.parametrize("norm, epsilon", [("linf", 12.0), ("l2", 0.2)])
def test_pieces_of_a_run_make_the_same_images(norm, epsilon, monkeypatch):
    model, images, labels = make(0.9, images=8)
    attack = Square(epsilon, 40, restarts=2, norm=norm)
    keys = np.stack([np.full(8, 2), np.arange(8)], 1)
    given = {"value_range": (0, 1), "seed": keys, "run": 1}
    given["num_classes"] = model.logits(images[:1].astype(float)).shape[1]
    whole = attack(model, images, labels, **given)
    monkeypatch.setattr(square, "_AT_ONCE", 15)
    *earlier, (last, goals) = attack._pieces(model, images, labels, **given)
    np.testing.assert_array_equal(last, whole)
    np.testing.assert_array_equal(goals, labels)
    assert len(earlier) == 3  # after 15, 30 and 40 queries
    assert not np.array_equal(earlier[0][0], earlier[1][0])
    # It ends where every image is misclassified.
    fooled = model.logits(whole.numpy().astype(float)).argmax(1) != labels
    assert 0 < fooled.sum() < 8
    given["seed"] = keys[fooled]
    [*_, (last, _)] = pieces = list(attack._pieces(model, images[fooled], labels[fooled], **given))
    np.testing.assert_array_equal(last, whole[fooled])
    assert len(pieces) <= 3 and attack.num_queries == 40


def test_it_needs_no_gradient():
    model, images, labels = make(0.9)

    def opaque(images):
        return tf.stop_gradient(model(images))

    given = {"value_range": (0, 1), "seed": (0, 0)}
    result = Square(12, 60)(opaque, images, labels, **given).numpy()
    assert np.mean(model.logits(result.astype(float)).argmax(1) != labels) > 0.3


def test_wrong_arguments():
    with pytest.raises(ValueError, match="^num_queries must be an integer of at least 1"):
        Square(num_queries=0)
    with pytest.raises(ValueError, match="^images must be .batch, height, width, channels. for"):
        Square()(lambda x: x, np.zeros([2, 5]), [0, 1], value_range=(0, 1), seed=(0, 0))
    nothing = lambda x: tf.reduce_sum(x, [1, 2]) * np.nan  # noqa: E731
    given = {"value_range": (0, 1), "seed": (0, 0), "run": 0}
    with pytest.raises(ValueError, match="^a logit is NaN"):
        list(Square(8, 2)._pieces(nothing, np.zeros([2, *SHAPE]), [0, 1], **given))
    with pytest.raises(ValueError, match="^a logit is NaN"):
        Square(8, 2)(nothing, np.zeros([2, *SHAPE]), [0, 1], value_range=(0, 1), seed=(0, 0))
