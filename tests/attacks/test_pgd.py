import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfadv.attacks import PGD

RANGES = [(0, 255), (0, 1), (-1, 1)]


def reference(case, start, goals, attack, num_steps):
    """The rule of the pipeline, step by step, in float64."""
    low, high = case.range
    unit = (high - low) / 255
    step = attack.step_size
    if attack.step_size_rule == "pipeline":
        step = max(step, attack.epsilon / attack.num_steps)
    images, current = case.images.astype(float), np.asarray(start, float)
    for _ in range(num_steps):
        slope = case.model.gradient(current, goals, attack.loss)
        sign = -np.sign(slope) if attack.targeted else np.sign(slope)
        current = current + step * unit * sign
        current = np.minimum(
            np.maximum(current, np.maximum(images - attack.epsilon * unit, low)),
            np.minimum(images + attack.epsilon * unit, high),
        )
    return current


@pytest.mark.parametrize("value_range", RANGES)
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_equals_the_rule_in_numpy(make_case, value_range, targeted, loss):
    case = make_case(value_range)
    for steps, rule in [(1, "fixed"), (10, "pipeline")]:
        attack = PGD(16, 1, steps, targeted=targeted, loss=loss, step_size_rule=rule)
        given = {"value_range": value_range, "seed": (3, steps)}
        start, goals = attack.start(case.images, case.labels, case.classes, **given)
        result, same = attack(
            case.model, case.images, case.labels, num_classes=7, return_targets=True, **given
        )
        np.testing.assert_array_equal(goals, same)
        expected = reference(case, start, goals, attack, steps)
        pixel = (value_range[1] - value_range[0]) / 255
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-3 * pixel)
        assert result.dtype == tf.float32


@pytest.mark.parametrize("value_range", RANGES)
@pytest.mark.parametrize("targeted", [True, False])
def test_equals_the_rule_in_numpy_for_l2(make_case, value_range, targeted):
    case = make_case(value_range)
    low, high = value_range
    attack = PGD(0.4, 0.1, 9, targeted=targeted, norm="l2")
    given = {"value_range": value_range, "seed": (3, 1)}
    start, goals = attack.start(case.images, case.labels, case.classes, **given)
    result = attack(case.model, case.images, case.labels, num_classes=7, **given).numpy()

    def length(offsets):
        return np.sqrt((offsets**2).sum((1, 2, 3), keepdims=True))

    images, current, radius = case.images.astype(float), start.numpy().astype(float), 0.4
    radius *= high - low
    np.testing.assert_allclose(length(current - images), radius, rtol=1e-4)
    assert np.any(current < low) or np.any(current > high)
    for _ in range(9):
        slope = case.model.gradient(current, goals, "cross_entropy")
        step = slope / length(slope) * 0.1 * (high - low)
        offsets = current + (-step if targeted else step) - images
        offsets *= np.minimum(1, radius / length(offsets))
        current = np.clip(images + offsets, low, high)
    np.testing.assert_allclose(result, current, rtol=0, atol=1e-4 * (high - low))
    assert np.all(length(result - images) <= radius * (1 + 1e-5))
    config = attack.get_config()
    assert config["norm"] == "l2" and PGD.from_config(config).get_config() == config
    assert "norm" not in PGD().get_config()
    keys = np.stack([np.full(6, 1), np.arange(6)], 1)
    some = attack.replace(start_from_clean=0.5)
    start, _ = some.start(case.images, case.labels, 7, keys, value_range)
    moved = length(start.numpy() - images).ravel() / radius
    assert set(moved.round(3)) == {0.0, 1.0}


@pytest.mark.parametrize("value_range", RANGES)
def test_stays_in_the_ball_and_the_range_at_every_step(make_case, value_range):
    case = make_case(value_range)
    low, high = value_range
    pixel = (high - low) / 255
    attack = PGD(16, 4, 10)
    start, goals = attack.start(case.images, case.labels, 7, (0, 0), value_range)
    for steps in range(1, 11):
        result = attack.advance(case.model, case.images, start, goals, steps, None, value_range)
        assert np.abs(result - case.images).max() <= 16 * pixel * (1 + 1e-5)
        assert low <= np.min(result) and np.max(result) <= high
        assert np.abs(result - case.images).max() > 15 * pixel
    whole = attack(case.model, case.images, case.labels, value_range=value_range, seed=(0, 0))
    np.testing.assert_array_equal(result, whole)


def test_start_is_uniform_in_the_ball_and_not_clipped_to_the_range(make_case):
    case = make_case(images=200)
    attack = PGD(16)
    for seed in [(0, 1), np.stack([np.zeros(200, int), np.arange(200)], 1)]:
        start, _ = attack.start(case.images, case.labels, case.classes, seed, case.range)
        noise = start.numpy() - case.images
        assert np.abs(noise).max() <= 16.0001
        assert start.numpy().min() < -10 and start.numpy().max() > 265
        assert stats.kstest(noise.ravel(), stats.uniform(-16, 32).cdf).pvalue > 1e-3


def test_first_gradient_is_taken_at_the_unclipped_start():
    # Above 255 this network is driven down; at 255 itself, where a clipped start would be, and
    # below, it has no gradient.
    def logits_fn(images):
        above = tf.reduce_sum(tf.nn.relu(images - 255.0), axis=[1, 2, 3])
        return tf.stack([-above, tf.zeros_like(above)], axis=-1)

    images, labels = np.full([2, 4, 4, 1], 255, "uint8"), [1, 1]
    attack = PGD(16, 16, 1, step_size_rule="fixed")
    start, targets = attack.start(images, labels, 2, (5, 5), (0, 255))
    result = attack(logits_fn, images, labels, value_range=(0, 255), seed=(5, 5)).numpy()
    assert targets.numpy().tolist() == [0, 0]
    start = start.numpy()
    assert (start > 255).any()
    np.testing.assert_allclose(result, np.where(start > 255, start - 16, start), atol=1e-4)

    # And with `clip_start` there, as by other libraries.
    clipped = attack.replace(clip_start=True)
    at, _ = clipped.start(images, labels, 2, (5, 5), (0, 255))
    np.testing.assert_array_equal(at, np.minimum(start, 255))
    result = clipped(logits_fn, images, labels, value_range=(0, 255), seed=(5, 5))
    np.testing.assert_array_equal(result, at)


@pytest.mark.parametrize("value_range", RANGES)
def test_a_clipped_start_lies_in_the_range_and_else_is_the_same(make_case, value_range):
    case = make_case(value_range)
    attack = PGD(16, num_steps=3)
    given = {"value_range": value_range, "seed": (0, 2)}
    start, goals = attack.start(case.images, case.labels, 7, **given)
    clipped, same = attack.replace(clip_start=True).start(case.images, case.labels, 7, **given)
    np.testing.assert_array_equal(clipped, np.clip(start, *value_range))
    np.testing.assert_array_equal(same, goals)
    assert np.any(clipped != start)
    result = attack.replace(clip_start=True)(case.model, case.images, case.labels, **given)
    expected = reference(case, clipped, goals, attack, 3)
    pixel = (value_range[1] - value_range[0]) / 255
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-3 * pixel)


@pytest.mark.parametrize(
    "steps, rule, expected",
    [(10, "pipeline", 1.6), (5, "pipeline", 3.2), (16, "pipeline", 1), (30, "pipeline", 1),
     (2000, "pipeline", 1), (5, "fixed", 1), (0, "pipeline", 1)],
)  # fmt: skip
def test_step_size_rule(steps, rule, expected):
    assert PGD(16, 1, steps, step_size_rule=rule).effective_step_size == pytest.approx(expected)


def test_no_steps_give_the_start_clipped_and_no_epsilon_gives_the_image(case):
    given = {"value_range": case.range, "seed": (1, 2)}
    start, _ = PGD(16).start(case.images, case.labels, case.classes, **given)
    result = PGD(16, num_steps=0)(case.model, case.images, case.labels, **given)
    np.testing.assert_array_equal(result, np.clip(start, 0, 255))
    for steps in (0, 3):
        result = PGD(0, num_steps=steps)(case.model, case.images, case.labels, **given)
        np.testing.assert_array_equal(result, case.images)


@pytest.mark.parametrize("rate", [0.2, 0.7])
def test_clean_start_is_one_draw_for_the_whole_batch(case, rate):
    attack = PGD(16, start_from_clean=rate)
    start = tf.function(
        lambda seed: attack.start(case.images, case.labels, case.classes, seed, case.range)
    )
    clean = []
    for step in range(600):
        moved = np.abs(start(tf.constant([7, step]))[0] - case.images).max(axis=(1, 2, 3))
        assert np.all(moved == 0) or np.all(moved > 1)
        clean.append(moved[0] == 0)
    assert stats.binomtest(sum(clean), len(clean), rate).pvalue > 1e-3


def test_clean_start_is_one_draw_for_an_image_with_a_key_of_its_own(make_case):
    case = make_case(images=400)
    seed = np.stack([np.full(400, 7), np.arange(400)], 1)
    for rate in (0.0, 0.2, 1.0):
        attack = PGD(16, start_from_clean=rate)
        start, _ = attack.start(case.images, case.labels, case.classes, seed, case.range)
        clean = np.abs(start - case.images).max(axis=(1, 2, 3)) == 0
        assert stats.binomtest(int(clean.sum()), 400, rate).pvalue > 1e-3


@pytest.mark.parametrize("targeted", [True, False])
def test_a_key_per_image_makes_the_batch_irrelevant(make_case, targeted):
    case = make_case(images=12)
    attack = PGD(16, num_steps=4, targeted=targeted, start_from_clean=0.3)
    seed = np.stack([np.full(12, 3), np.arange(100, 112)], 1)

    def run(rows):
        return [
            value.numpy()
            for value in (
                *attack.start(case.images[rows], case.labels[rows], 7, seed[rows], case.range),
                attack(case.model, case.images[rows], case.labels[rows], value_range=case.range,
                       seed=seed[rows]),
            )
        ]  # fmt: skip

    whole = run(np.arange(12))
    for rows in ([4], [7, 0, 4], [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]):
        start, goals, result = run(np.array(rows))
        np.testing.assert_array_equal(start, whole[0][rows])
        np.testing.assert_array_equal(goals, whole[1][rows])
        np.testing.assert_allclose(result, whole[2][rows], atol=1e-3)
    assert len(np.unique(whole[0].reshape(12, -1) - case.images.reshape(12, -1), axis=0)) > 6


@pytest.mark.parametrize("targeted", [True, False])
def test_advancing_in_parts_gives_the_bits_of_the_whole(case, targeted):
    attack = PGD(16, 1, 100, targeted=targeted)
    whole = attack(case.model, case.images, case.labels, value_range=case.range, seed=(0, 1))
    current, goals = attack.start(case.images, case.labels, 7, (0, 1), case.range)
    for steps in (20, 0, 80):
        current = attack.advance(case.model, case.images, current, goals, steps, 1.0, case.range)
    np.testing.assert_array_equal(whole, current)
    advance = tf.function(
        lambda current, steps: attack.advance(
            case.model, case.images, current, goals, steps, None, case.range
        )
    )
    current, _ = attack.start(case.images, case.labels, 7, (0, 1), case.range)
    for steps in (20, 80):
        current = advance(current, tf.constant(steps, tf.int64))
    np.testing.assert_array_equal(whole, current)


def test_given_targets_change_the_aim_and_not_the_start(case):
    targets = (case.labels + 1) % 7
    attack = PGD(16, num_steps=5)
    given = {"value_range": case.range, "seed": (4, 4)}
    start, goals = attack.start(case.images, case.labels, 7, **given, targets=targets)
    np.testing.assert_array_equal(goals, targets)
    np.testing.assert_array_equal(start, attack.start(case.images, case.labels, 7, **given)[0])
    result = attack(case.model, case.images, case.labels, targets=np.eye(7)[targets], **given)
    expected = reference(case, start, targets, attack, 5)
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_forms_of_images_and_labels_are_alike(case):
    attack = PGD(16, num_steps=3)
    given = {"value_range": case.range, "seed": (4, 4)}
    expected = attack(case.model, case.images, case.labels, **given)
    sparse, one_hot = case.labels.astype("int32"), np.eye(7, dtype="float32")[case.labels]
    for images in (case.images.astype("uint8"), case.images.astype("float64")):
        for labels in (sparse, sparse[:, None], sparse.astype("uint8"), one_hot):
            np.testing.assert_array_equal(attack(case.model, images, labels, **given), expected)


def test_seeds_differ_and_repeat(case):
    attack = PGD(16, num_steps=2)
    starts = [
        attack.start(case.images, case.labels, 7, seed, case.range, restart=restart)[0].numpy()
        for seed, restart in [((0, 0), 0), ((0, 1), 0), ((1, 0), 0), ((0, 0), 1), ((0, 0), 2),
                              ((2**40, 0), 0), ((0, 0), 0)]
    ]  # fmt: skip
    np.testing.assert_array_equal(starts[0], starts[-1])
    for i in range(6):
        for j in range(i):
            assert np.mean(starts[i] == starts[j]) < 0.01


def test_config_round_trips():
    attack = PGD(8, 2.0, 10, False, "margin", 0.2, "fixed", 3, jit_compile=False)
    assert PGD.from_config(attack.get_config()).get_config() == attack.get_config()
    changed = attack.replace(num_steps=np.int64(100))
    assert (changed.name, changed.num_steps, changed.loss) == ("PGD-100", 100, "margin")
    assert attack.name == "PGD-10"
    assert eval(repr(attack)).get_config() == attack.get_config()
    assert list(PGD().get_config().items())[:3] == [
        ("epsilon", 16.0), ("step_size", 1.0), ("num_steps", 30)
    ]  # fmt: skip
