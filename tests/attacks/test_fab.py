"""FAB against its algorithm in NumPy, and its projection against a quadratic programme."""

import itertools

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from scipy import optimize

from tests.attacks.test_apgd import CLASSES, make
from tfadv import attacks
from tfadv.attacks import FAB, fab, random_draws

pixels = st.lists(st.integers(0, 16), min_size=3, max_size=3)
slopes = st.lists(st.integers(-9, 9), min_size=3, max_size=3)


@hypothesis.settings(max_examples=60, derandomize=True, deadline=None, database=None)
@hypothesis.given(pixels, slopes, st.integers(-20, 20))
def test_projections_are_the_shortest_in_three_dimensions(point, slope, value):
    """Each vertex, edge and face of the solution is tried: which pixels are at which end."""
    point, slope, value = np.array(point) / 16, np.array(slope) / 3, value / 4
    for norm in ("linf", "l2"):
        given = (tf.constant(each[None], tf.float32) for each in (slope, np.array(value), point))
        move = fab.onto_plane(*given, 0.0, 1.0, norm).numpy()[0].astype(float)
        assert np.all(point + move > -1e-6) and np.all(point + move < 1 + 1e-6)
        ends = np.array(list(itertools.product([0, 1], repeat=3)))
        reached = value + (ends - point) @ slope
        after = value + slope @ move
        if reached.min() > 0 or reached.max() < 0:  # the range does not reach the plane
            np.testing.assert_allclose(after, reached[np.abs(reached).argmin()], atol=1e-5)
            continue
        np.testing.assert_allclose(after, 0, atol=1e-5)
        length = np.abs(move).max() if norm == "linf" else np.sqrt((move**2).sum())
        np.testing.assert_allclose(length, shortest(point, slope, value, norm), atol=1e-5)


def shortest(point, slope, value, norm):
    if norm == "linf":  # a linear programme: the least u with -u <= d <= u
        both = np.concatenate([np.eye(3), -np.eye(3)])
        solution = optimize.linprog(
            [0, 0, 0, 1],
            A_ub=np.concatenate([both, -np.ones([6, 1])], axis=1),
            b_ub=np.zeros(6),
            A_eq=[[*slope, 0]],
            b_eq=[-value],
            bounds=[*((-x, 1 - x) for x in point), (0, None)],
        )
        return solution.fun
    best = np.inf  # a quadratic programme: for each choice of pixels at an end, the rest is a plane
    for ends in itertools.product([None, 0, 1], repeat=3):
        free = np.array([end is None for end in ends])
        move = np.array(
            [0.0 if end is None else end - x for end, x in zip(ends, point, strict=True)]
        )
        left, size = value + slope @ move, (slope[free] ** 2).sum()
        if size:
            move[free] = -left / size * slope[free]
        inside = np.all((point + move >= -1e-9) & (point + move <= 1 + 1e-9))
        if inside and abs(value + slope @ move) < 1e-9:
            best = min(best, np.sqrt((move**2).sum()))
    return best


def projection(slope, value, point, norm):
    """The step in float64, by bisection on how far the pixels move."""
    way = -np.sign(slope) * np.sign(value)
    room = np.where(way > 0, 1 - point, point) * np.abs(way)
    speed = np.ones_like(slope) if norm == "linf" else np.abs(slope)
    if (np.abs(slope) * room).sum() <= abs(value):
        return way * room
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        covered = (np.abs(slope) * np.minimum(middle * speed, room)).sum()
        low, high = (middle, high) if covered < abs(value) else (low, middle)
    return way * np.minimum(high * speed, room)


def reference(model, image, label, target, start, num_steps, norm):
    def length(offset):
        return np.abs(offset).max() if norm == "linf" else np.sqrt((offset**2).sum())

    def plane(point, other):
        slopes = (np.eye(CLASSES)[other] - np.eye(CLASSES)[label])[None]
        logits = model.logits(point[None])[0]
        return model.gradient(point[None], slopes)[0], logits[other] - logits[label]

    def rate(slope):
        return np.abs(slope).sum() if norm == "linf" else np.sqrt((slope**2).sum())

    x, nearest = start, (np.inf, image)
    for _ in range(num_steps):
        if target is None:
            planes = [plane(x, other) for other in range(CLASSES) if other != label]
            slope, value = min(planes, key=lambda each: abs(each[1]) / rate(each[0]))
        else:
            slope, value = plane(x, target)
        d = projection(slope, value, x, norm)
        d0 = projection(slope, value + (slope * (image - x)).sum(), image, norm)
        share = min(max(length(d), 1e-8) / (max(length(d), 1e-8) + max(length(d0), 1e-8)), 0.1)
        x = np.clip((1 - share) * (x + 1.05 * d) + share * (image + 1.05 * d0), 0, 1)
        if model.logits(x[None]).argmax() != label:
            nearest = min(nearest, (length(x - image), x), key=lambda each: each[0])
            x = image + 0.9 * (x - image)
    return nearest


@pytest.mark.parametrize(
    "norm, epsilon, num_targets",
    [
        ("linf", 255.0, 1),
        ("l2", 9.0, None),
        pytest.param("l2", 9.0, 1, marks=pytest.mark.slow),
        pytest.param("linf", 255.0, None, marks=pytest.mark.slow),
    ],
)
def test_equals_the_algorithm_in_numpy(norm, epsilon, num_targets):
    model, images, labels = make(0.4)
    ranked = np.argsort(-model.logits(images.astype(float)), axis=1)
    attack = FAB(epsilon, 6, num_targets, restarts=2, norm=norm)
    given = {"value_range": (0, 1), "seed": (0, 3)}
    for run in (0, 1):
        result = attack(model, images, labels, run=run, **given).numpy()
        key = random_draws.fold_restart((0, 3), run)
        noise = random_draws.random_direction(tf.constant(images), key, norm).numpy()
        radius = 0.5 * (epsilon / 255 if norm == "linf" else epsilon)
        start = np.clip(images + run * radius * noise, 0, 1).astype(float)
        nearest = [
            reference(
                model, images[i].astype(float), labels[i], ranked[i, 1] if num_targets else None,
                start[i], 6, norm,
            )
            for i in range(12)
        ]  # fmt: skip
        expected = np.array([point for _, point in nearest])
        same = np.abs(result - expected).max((1, 2, 3)) < 1e-3
        assert same.mean() > 0.9
        fooled = model.logits(result.astype(float)).argmax(1) != labels
        inside = np.array([np.isfinite(distance) for distance, _ in nearest])
        np.testing.assert_array_equal(fooled[same], inside[same])
        assert fooled[same].mean() > 0.8


@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_it_finds_the_nearest_error_of_a_linear_network(norm):
    """Where the network is linear, the nearest error is known: at the nearest plane."""
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(32, CLASSES)) / 5
    images = rng.uniform(0.4, 0.6, (20, 4, 4, 2)).astype("float32")
    logits = images.reshape(20, 32).astype(float) @ weights
    labels = logits.argmax(1)

    def network(images):
        return tf.reshape(images, [-1, 32]) @ tf.constant(weights, tf.float32)

    slopes = weights.T[None] - weights.T[labels][:, None]
    gaps = logits[np.arange(20), labels][:, None] - logits
    rates = np.abs(slopes).sum(2) if norm == "linf" else np.sqrt((slopes**2).sum(2))
    rates[np.arange(20), labels], gaps[np.arange(20), labels] = 1, np.inf
    nearest = (gaps / rates).min(1)
    for num_targets in (None, CLASSES - 1):
        whole = FAB(255 if norm == "linf" else 9, 10, num_targets, norm=norm)
        given = {"value_range": (0, 1), "seed": (0, 0)}
        found = []
        for run in range(whole.runs(CLASSES)):
            result = whole(network, images, labels, run=run, **given).numpy()
            offsets = (result - images).reshape(20, 32)
            lengths = np.abs(offsets).max(1) if norm == "linf" else np.sqrt((offsets**2).sum(1))
            wrong = np.argmax(network(tf.constant(result)), 1) != labels
            found.append(np.where(wrong, lengths, np.inf))
        found = np.min(found, 0)
        assert np.all(found >= nearest - 1e-5) and np.all(found <= nearest * 1.06 + 1e-5)
        # So with epsilon between the distances, those below it are fooled, and the others not.
        epsilon = np.median(nearest) * (255 if norm == "linf" else 1) * 1.06
        bounded = whole.replace(epsilon=epsilon)
        result = bounded(network, images, labels, **given).numpy()
        wrong = np.argmax(network(tf.constant(result)), 1) != labels
        assert np.all(wrong[nearest * 1.06 < np.median(nearest) * 1.06])
        assert not np.any(wrong[nearest > np.median(nearest) * 1.06])


@pytest.mark.slow
def test_the_result_is_the_same_under_xla_and_in_any_batch():
    model, images, labels = make(0.3)
    attack = FAB(30, 5)
    keys = np.stack([np.full(12, 5), np.arange(12)], 1)

    def run(rows, attack=attack):
        given = {"value_range": (0, 1), "seed": keys[rows], "run": 1}
        return attack(model, images[rows], labels[rows], **given).numpy()

    whole = run(np.arange(12))
    np.testing.assert_allclose(run(np.array([7, 0, 4])), whole[[7, 0, 4]], atol=1e-5)
    compiled = run(np.arange(12), attack.replace(jit_compile=True))
    assert np.mean(np.abs(compiled - whole) < 1e-3) > 0.95


def test_names_and_arguments():
    assert FAB(num_targets=None).name == "FAB-100" and FAB().name == "FAB-T-100"
    made = attacks.make("fab_targeted", {"epsilon": 4, "num_steps": 50, "step_size": 3})
    assert (made.name, made.epsilon, made.num_targets) == ("FAB-T-50", 4, 9)
    assert FAB.from_config(made.get_config()).get_config() == made.get_config()
    for arguments in ({"num_targets": 0}, {"num_steps": 0}):
        with pytest.raises(ValueError, match="must be an integer of at least 1; received 0$"):
            FAB(**arguments)
