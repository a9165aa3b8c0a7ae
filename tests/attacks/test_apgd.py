"""APGD against its algorithm in NumPy, step by step; its losses, targets and bounds."""

import numpy as np
import pytest
import tensorflow as tf

from tfadv import attacks
from tfadv.attacks import APGD, apgd, random_draws, steps

CLASSES = 6
SHAPE = (4, 4, 2)


class Waves:
    """`logits = sin(flatten(images) @ inner) @ outer`: a loss with many hills, of known gradient.

    Args:
        images from 0 to `top`.
        frequency: How many hills a ball has.
    """

    def __init__(self, frequency=3.0, top=1.0, seed=0):
        rng = np.random.default_rng(seed)
        self.inner = rng.normal(size=(32, 12)) * frequency / top
        self.outer = rng.normal(size=(12, CLASSES)) * 2

    def __call__(self, images):
        flat = tf.reshape(images, [-1, 32])
        inner, outer = (tf.constant(each, tf.float32) for each in (self.inner, self.outer))
        return tf.sin(flat @ inner) @ outer

    def logits(self, images):
        return np.sin(images.reshape(-1, 32) @ self.inner) @ self.outer

    def gradient(self, images, slopes):
        """The gradient to the images, for the gradient of a loss to the logits."""
        cosines = np.cos(images.reshape(-1, 32) @ self.inner)
        return (((slopes @ self.outer.T) * cosines) @ self.inner.T).reshape(images.shape)


def losses_and_slopes(logits, labels, targets, loss):
    """Each loss and its gradient to the logits."""
    rows, count = np.arange(len(logits)), len(logits)
    one = np.eye(CLASSES)
    if loss == "cross_entropy":
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        return -np.log(shares[rows, labels]), shares - one[labels]
    order = np.argsort(-logits, axis=1)
    if loss == "dlr":
        others = np.where(order[:, 0] == labels, order[:, 1], order[:, 0])
        above = one[others] - one[labels]
        spread = one[order[:, 0]] - one[order[:, 2]]
    else:
        above = one[targets] - one[labels]
        spread = one[order[:, 0]] - (one[order[:, 2]] + one[order[:, 3]]) / 2
    over, under = (above * logits).sum(1), (spread * logits).sum(1)
    slopes = above / under[:, None] - over[:, None] * spread / under[:, None] ** 2
    assert slopes.shape == (count, CLASSES)
    return over / under, slopes


def projected(points, images, radius, norm, top=1.0):
    offsets = points - images
    if norm == "linf":
        offsets = np.clip(offsets, -radius, radius)
    else:
        length = np.sqrt((offsets**2).sum((1, 2, 3), keepdims=True))
        offsets = offsets * np.minimum(1, radius / np.maximum(length, 1e-30))
    return np.clip(images + offsets, 0, top)


def reference(model, images, labels, targets, start, radius, num_steps, loss, norm):
    """Algorithm 1 of Croce and Hein (2020), one image and one step after the other.

    Returns each image's result; the step sizes after each step `[images, steps]`; and which
    condition halved them, as `{(image, step): set of 1 and 2}`.
    """
    results, sizes, reasons = [], [], {}
    for number, image in enumerate(images):
        image, label, target = (
            image[None],
            labels[number : number + 1],
            targets[number : number + 1],
        )

        def look(point, label=label, target=target):
            logits = model.logits(point)
            [value], slopes = losses_and_slopes(logits, label, target, loss)
            return value, model.gradient(point, slopes), logits.argmax() != label[0]

        def direction(slope):
            return (
                np.sign(slope) if norm == "linf" else slope / max(np.sqrt((slope**2).sum()), 1e-30)
            )

        x = previous = start[number : number + 1]
        value, slope, fooled = look(x)
        best = x, value, slope
        visited = [(fooled, value, x)]
        size, improved, since = 2 * radius, 0, 0
        best_then, size_then = value, size
        history = []
        for k in range(num_steps):
            z = projected(x + size * direction(slope), image, radius, norm)
            share = 0.75 if k else 1.0
            new = x + share * (z - x) + (1 - share) * (x - previous)
            new = projected(new, image, radius, norm)
            new_value, new_slope, fooled = look(new)
            visited.append((fooled, new_value, new))
            improved, since = improved + (new_value > value), since + 1
            previous, x, value, slope = x, new, new_value, new_slope
            if value > best[1]:
                best = x, value, slope
            if k + 1 in apgd.checkpoints(num_steps):
                why = {1} if improved < 0.75 * since else set()
                why |= {2} if size == size_then and best[1] == best_then else set()
                size_then, best_then = size, best[1]
                if why:
                    reasons[number, k + 1] = why
                    size /= 2
                    x, value, slope = best
                improved = since = 0
            history.append(size)
        results.append(max(visited, key=lambda each: each[:2])[2][0])
        sizes.append(history)
    return np.array(results), np.array(sizes), reasons


def make(frequency, images=12, seed=0):
    model = Waves(frequency, seed=seed)
    x = np.random.default_rng(seed + 1).uniform(size=(images, *SHAPE)).astype("float32")
    return model, x, model.logits(x.astype(float)).argmax(1)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "loss, norm, epsilon",
    [
        ("cross_entropy", "linf", 20.0),
        ("targeted_dlr", "l2", 0.5),
        slow("dlr", "linf", 20.0),
        slow("targeted_dlr", "linf", 20.0),
        slow("cross_entropy", "l2", 0.5),
        slow("dlr", "l2", 0.5),
    ],
)
def test_equals_the_algorithm_in_numpy(loss, norm, epsilon):
    compared, halved, conditions = 0, set(), set()
    for frequency, num_steps in ((0.3, 40), (1.0, 20)):
        model, images, labels = make(frequency)
        attack = APGD(
            epsilon, num_steps, loss, norm=norm, num_targets=1 if loss[0] == "t" else None
        )
        result = attack(model, images, labels, value_range=(0, 1), seed=(3, 4)).numpy()
        targets = np.argsort(-model.logits(images.astype(float)), axis=1)[:, 1]
        radius = epsilon / 255 if norm == "linf" else epsilon
        start = random_draws.random_direction(tf.constant(images), (3, 4), norm).numpy() * radius
        start = np.clip(images + start, 0, 1).astype(float)
        rounding = 1e-6 * np.random.default_rng(0).normal(size=start.shape)

        given = model, images.astype(float), labels, targets
        settings = radius, num_steps, loss, norm
        expected, sizes, reasons = reference(*given, start, *settings)
        # The path of some images turns on the last bit: those cannot be compared.
        again, *_ = reference(*given, start + rounding, *settings)
        clear = np.abs(again - expected).max((1, 2, 3)) < 1e-4
        same = np.abs(result - expected).max((1, 2, 3)) < 2e-4
        assert np.mean(same[clear]) >= 0.8
        clear &= same
        compared += clear.sum()
        halved |= {len(set(row)) - 1 for row in sizes[clear].tolist()}
        conditions |= {frozenset(why) for (n, _), why in reasons.items() if clear[n]}
    # Steps were halved seldom and often, for either reason.
    assert compared >= 14 and max(halved) >= 4 and len(halved) >= 3
    assert {frozenset({1}), frozenset({1, 2})} <= conditions


@pytest.mark.parametrize("norm, epsilon", [("linf", 9.0), ("l2", 0.4)])
def test_a_misclassified_image_is_returned_as_it_is(norm, epsilon):
    model, images, labels = make(1.5, images=30)
    wrong = (labels + (np.arange(30) % 2)) % CLASSES
    given = {"value_range": (0, 1), "seed": (0, 0)}
    result = APGD(epsilon, 5, norm=norm)(model, images, wrong, **given).numpy()
    np.testing.assert_array_equal(result[1::2], images[1::2])
    assert np.all(np.abs(result - images).max((1, 2, 3))[::2] > 0)


def test_targets_are_the_classes_that_follow_in_the_logits():
    model, images, labels = make(0.5)
    ranked = np.argsort(-model.logits(images.astype(float)), axis=1)
    attack = APGD(8, 6, "targeted_dlr", num_targets=9, restarts=2)
    assert attack.runs(CLASSES) == (CLASSES - 1) * 2 and attack.runs(20) == 18
    seen = []
    search = APGD._search

    def spy(self, logits_fn, ball, labels, targets, restart, key, value_range):
        seen.append((targets, restart))
        return search(self, logits_fn, ball, labels, targets, restart, key, value_range)

    for run in (0, 9):
        key = random_draws.fold_restart((1, 2), run)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(APGD, "_search", spy)

            @tf.function
            def graph(run=run):
                attack(model, images, labels, value_range=(0, 1), seed=(1, 2), run=run)
                return seen[-1]

            targets, restart = graph()
        np.testing.assert_array_equal(targets, ranked[:, 1 + run // 2])
        assert restart == run % 2 and key.shape == (2,)


def test_every_run_counts_and_the_strongest_is_kept():
    model, images, labels = make(1.5, images=40)
    attack = APGD(5, 4, "targeted_dlr", num_targets=3)
    given = {"value_range": (0, 1), "seed": (7, 7)}
    margins = []
    for run in range(3):
        result = attack(model, images, labels, run=run, **given).numpy()
        logits = model.logits(result.astype(float))
        own = logits[np.arange(40), labels]
        logits[np.arange(40), labels] = -np.inf
        margins.append(logits.max(1) - own)
    kept = model.logits(attack(model, images, labels, **given).numpy().astype(float))
    own = kept[np.arange(40), labels].copy()
    kept[np.arange(40), labels] = -np.inf
    np.testing.assert_allclose(kept.max(1) - own, np.max(margins, 0), atol=1e-4)
    assert len(set(np.argmax(margins, 0))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "targeted_dlr"])
def test_a_key_per_image_makes_the_batch_irrelevant_and_xla_is_the_same(loss):
    model, images, labels = make(0.3)
    attack = APGD(8, 9, loss, jit_compile=False)
    keys = np.stack([np.full(12, 5), np.arange(12)], 1)

    def run(rows, attack=attack):
        given = {"value_range": (0, 1), "seed": keys[rows], "run": 0}
        return attack(model, images[rows], labels[rows], **given).numpy()

    whole = run(np.arange(12))
    np.testing.assert_allclose(run(np.array([7, 0, 4])), whole[[7, 0, 4]], atol=1e-5)
    compiled = run(np.arange(12), attack.replace(jit_compile=True))
    assert np.mean(np.abs(compiled - whole) < 1e-4) > 0.97


def test_gradients_of_a_random_network_are_averaged():
    draws = iter(range(10**6))

    def noisy(images):
        next(draws)
        noise = tf.random.stateless_normal(tf.shape(images), (0, 1)) * 0
        return Waves(0.3)(images + noise)

    model, images, labels = make(0.3)
    given = {"value_range": (0, 1), "seed": (1, 1)}
    once = APGD(8, 5)(model, images, labels, **given).numpy()
    averaged = APGD(8, 5, gradient_samples=3)(noisy, images, labels, **given).numpy()
    assert np.mean(np.abs(averaged - once) < 1e-4) > 0.97


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"loss": "dlr_targeted"}, "loss must be one of 'cross_entropy', 'dlr', 'targeted_dlr'"),
        ({"num_targets": 3}, 'num_targets must be None unless loss="targeted_dlr"; received 3'),
        ({"num_steps": 0}, "num_steps must be an integer of at least 1; received 0"),
        ({"norm": "l1"}, "norm must be one of 'linf', 'l2'; received 'l1'"),
        ({"gradient_samples": 0}, "gradient_samples must be an integer of at least 1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        APGD(**arguments)


def test_too_few_classes_for_dlr():
    def few(images):
        return Waves()(images)[:, :3]

    images = np.full((2, *SHAPE), 0.5, "float32")
    given = {"value_range": (0, 1), "seed": (0, 0)}
    with pytest.raises(ValueError, match="^loss='targeted_dlr' needs at least 4 classes; .* 3 .*"):
        APGD(8, 2, "targeted_dlr")(few, images, [0, 1], **given)
    assert APGD(8, 2, "dlr")(few, images, [0, 1], **given).shape == (2, *SHAPE)


def test_names_and_configuration():
    made = [
        attacks.make(name, {"epsilon": 8, "num_steps": 7, "loss": "margin", "targeted": True})
        for name in ("apgd_ce", "apgd_dlr_targeted")
    ]
    assert [each.name for each in made] == ["APGD-CE-7", "APGD-T-7"]
    assert APGD(loss="dlr").name == "APGD-DLR-100" and not APGD().advances
    assert not made[1].targeted and made[1].num_targets == 9 and made[0].num_targets is None
    for each in made:
        assert type(each).from_config(each.get_config()).get_config() == each.get_config()
    assert made[0].replace(num_steps=3).loss == "cross_entropy"


def test_losses_have_the_slopes_of_numpy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(9, CLASSES)), rng.integers(0, CLASSES, 9)
    targets = (labels + 2) % CLASSES
    for name, function in (
        ("dlr", lambda z: steps.dlr(z, tf.constant(labels))),
        (
            "targeted_dlr",
            lambda z: steps.targeted_dlr(z, tf.constant(labels), tf.constant(targets)),
        ),
    ):
        given = tf.constant(logits, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(given)
            losses = function(given)
        expected, slopes = losses_and_slopes(logits, labels, targets, name)
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
        np.testing.assert_allclose(tape.gradient(losses, given), slopes, rtol=1e-3, atol=1e-4)
        # Neither a scale nor a shift of the logits changes the loss.
        np.testing.assert_allclose(function(given * 1000 + 5), losses, rtol=1e-3)


def test_checkpoints():
    assert apgd.checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert apgd.checkpoints(1) == [1] and apgd.checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
