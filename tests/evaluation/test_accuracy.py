"""Counts against independent computations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.evaluation import cases
from tfadv import data, evaluation, models
from tfadv.attacks import PGD
from tfadv.models import calling


def counts(results):
    return [(result.correct, result.hits) for result in results]


def loop(model, x, labels, attack, num_steps, seed):
    """Whether each image is right and whether it is hit: one image, one step at a time, NumPy."""
    weights, bias = (value.astype(float) for value in model.get_weights())

    def logits(image):
        return (image.ravel() * 2 / 255 - 1) @ weights + bias

    step = max(attack.step_size, attack.epsilon / num_steps)
    keys = np.stack([np.full(len(x), seed), np.arange(len(x))], 1)
    right, hit = np.ones(len(x), bool), np.zeros(len(x), bool)
    for restart in range(attack.restarts):
        starts, goals = tf.function(attack.start)(
            x, labels, cases.CLASSES, keys, (0, 255), None, restart
        )
        for i, (image, current, goal) in enumerate(
            zip(x.astype(float), starts.numpy().astype(float), goals.numpy(), strict=True)
        ):
            for _ in range(num_steps):
                slope = np.exp(logits(current) - logits(current).max())
                slope /= slope.sum()
                slope[goal] -= 1
                sign = np.sign(weights @ slope).reshape(image.shape)
                current = current - step * sign if attack.targeted else current + step * sign
                current = np.clip(
                    current,
                    np.maximum(image - attack.epsilon, 0),
                    np.minimum(image + attack.epsilon, 255),
                )
            predicted = logits(current).argmax()
            right[i] &= predicted == labels[i]
            hit[i] |= predicted == goal if attack.targeted else predicted != labels[i]
    return right, hit


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("restarts", [1, 3])
def test_counts_equal_a_loop_over_single_images(targeted, restarts):
    model = cases.regression()
    x, y = cases.images(model, 26)
    attack = PGD(4, num_steps=9, targeted=targeted, restarts=restarts)
    results = evaluation.evaluate(model, (x, y), attack, [8, 2, 2], batch_size=4, seed=6)
    assert [(result.num_steps, result.step_size) for result in results] == [
        (0, None),
        (2, 2.0),
        (8, 1.0),
    ]
    assert results[0].correct == np.sum(cases.predict(model, x) == y) == 20
    before = cases.predict(model, x) == y
    for result in results[1:]:
        right, hit = loop(model, x, y, attack, result.num_steps, seed=6)
        assert (result.correct, result.hits) == (right.sum(), hit.sum())
        assert result.regained == np.sum(right & ~before)
        before = right
        assert 0 < result.correct < 20 and 0 < result.hits < 26
    assert {result.total for result in results} == {26}
    if restarts > 1 and targeted:
        one = evaluation.evaluate(model, (x, y), attack.replace(restarts=1), 8, seed=6)
        assert one[-1].correct > results[-1].correct and one[-1].hits < results[-1].hits


def test_one_pass_gives_the_bits_of_separate_runs(monkeypatch):
    model = cases.mixture()
    x, y = cases.images(model, 8)
    attack = PGD(6)
    numbers = [3, 7, 11]
    evaluator = evaluation.Evaluator(model, attack, numbers, seed=3)
    assert list(evaluator._groups.items()) == [(2.0, [3]), (1.0, [7, 11])]
    (network,) = evaluator.networks
    network.predict(tf.cast(x, tf.float32))
    indices = np.arange(8)
    for step_size, group in evaluator._groups.items():
        trajectory = evaluator.trajectory(
            network, tf.cast(x, tf.float32), y.astype("int32"), indices, step_size, group
        )
        for number, adversarial, goals in trajectory:
            separate, separate_goals = attack.replace(num_steps=number)(
                network,
                x,
                y.astype("int32"),
                value_range=(0, 255),
                seed=np.stack([np.full(8, 3), indices], 1),
                return_targets=True,
            )
            np.testing.assert_array_equal(adversarial, separate)
            np.testing.assert_array_equal(goals, separate_goals)

    taken = []
    advance = PGD.advance

    def spy(attack, network, images, current, goals, num_steps, step_size, value_range):
        taken.append((num_steps, step_size))
        return advance(attack, network, images, current, goals, num_steps, step_size, value_range)

    monkeypatch.setattr(PGD, "advance", spy)
    together = evaluator((x, y), batch_size=8)
    assert taken == [(3, 2.0), (7, 1.0), (4, 1.0)]
    alone = [
        evaluation.evaluate(model, (x, y), attack, number, batch_size=8, seed=3)[1]
        for number in numbers
    ]
    assert together[1:] == alone


def test_each_branch_is_attacked_through_itself_and_reported():
    model = cases.mixture()
    x, y = cases.images(model, 30)
    attack = PGD(8, num_steps=5)
    results = evaluation.evaluate(model, (x, y), attack, domains=("clean", "adv"), batch_size=10)
    assert [(result.domain, result.num_steps) for result in results] == [
        ("clean", 0),
        ("clean", 5),
        ("adv", 0),
        ("adv", 5),
    ]
    assert counts(results)[:2] != counts(results)[2:]
    for domain, rows in (("clean", results[:2]), ("adv", results[2:])):
        # A plain Keras model knows one branch alone.
        plain = models.extract(model, domain)
        expected = evaluation.evaluate(
            plain, (x, y), attack, domains=("adv", "clean"), value_range=(0, 255), batch_size=10
        )
        assert [result.domain for result in expected] == [None, None]
        assert counts(expected) == counts(rows)
        assert rows[1].correct < rows[0].correct


def test_all_kinds_of_data_and_labels_count_the_same():
    model = cases.mixture()
    x, y = cases.images(model, 23)
    attack = PGD(8, num_steps=3)
    one_hot = np.eye(cases.CLASSES)[y]
    batched = tf.data.Dataset.from_tensor_slices((x, y)).batch(7)
    dataset = data.ArrayDataset("made", (x, y), (x, y), cases.CLASSES)
    evaluator = evaluation.Evaluator(model, attack)
    expected = evaluator((x, y), batch_size=5)
    assert {result.total for result in expected} == {23}
    for given in (
        (x.astype("float32"), y[:, None]),
        [x, one_hot],
        batched,
        batched.map(lambda x, y: (tf.cast(x, tf.float32), tf.one_hot(y, cases.CLASSES))),
        dataset,
    ):
        assert evaluator(given, batch_size=5) == expected

    expected = evaluator((x[:9], y[:9]), batch_size=5)
    for given in (x, y), batched, batched.repeat(), dataset:
        assert evaluator(given, batch_size=5, limit=9) == expected
    assert evaluator(batched, batch_size=5, limit=90)[0].total == 23


def test_images_in_another_range_and_a_softmax():
    model = cases.regression()
    x, y = cases.images(model, 12)
    attack = PGD(4, num_steps=4)
    expected = evaluation.evaluate(model, (x, y), attack, batch_size=6)
    softmax = cases.regression(activation="softmax")
    assert evaluation.evaluate(softmax, (x, y), attack, batch_size=6) == expected
    # A range without zero, where padding of zeros would be refused.
    scaled = models.extract(model, "adv")
    scaled.layers[1].scale, scaled.layers[1].offset = 1.0, -2.0
    given = (x / 127.5 + 1, y)
    results = evaluation.evaluate(scaled, given, attack, batch_size=9, value_range=(1, 3))
    assert counts(results) == counts(expected)


def test_padding_meets_no_model_with_what_is_no_image():
    # Standardization of each image, which divides by zero for an image of zeros.
    inputs = keras.Input(cases.SHAPE)
    flat = keras.layers.Flatten()(inputs)
    mean = keras.ops.mean(flat, axis=1, keepdims=True)
    standard = (flat - mean) / keras.ops.std(flat, axis=1, keepdims=True)
    model = keras.Model(inputs, keras.layers.Dense(cases.CLASSES)(standard))
    x, y = cases.images(model, 5)
    results = evaluation.evaluate(model, (x, y), PGD(2, num_steps=2), value_range=(0, 255))
    assert results[0].correct == 4


def test_logits_of_nan_are_wrong():
    model = cases.regression()
    x, _ = cases.images(model, 4)
    model.set_weights([np.full_like(value, np.nan) for value in model.get_weights()])
    (result,) = evaluation.evaluate(model, (x, np.zeros(4, int)))
    assert result.correct == 0


def test_the_model_is_left_as_it_was():
    model = cases.mixture()
    attributes = set(vars(model))
    before = [value.numpy() for value in model.variables]
    evaluation.evaluate(
        model, cases.images(model, 6), PGD(8, num_steps=2), domains=("adv", "clean")
    )
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert set(vars(model)) == attributes


def test_nothing_is_traced_again(monkeypatch):
    model = cases.mixture()
    x, y = cases.images(model, 14)
    called = []
    call = models.call

    def counted(*args, **options):
        called.append(options)
        return call(*args, **options)

    monkeypatch.setattr(models, "call", counted)
    monkeypatch.setattr(calling, "call", counted)
    attack = PGD(4, num_steps=4, restarts=2)
    evaluator = evaluation.Evaluator(model, attack, [2, 4, 6], domains=("adv", "clean"))
    evaluator((x, y), batch_size=4)
    traces = len(called)
    # Of each branch: the prediction, and one attack for both step sizes.
    assert traces == 2 * (1 + 1)
    first = evaluator((x, y), batch_size=4)
    for variable in model.trainable_variables:
        variable.assign(variable.value * 0.5)
    second = evaluator((x[:9], y[:9]), batch_size=4)
    assert len(called) == traces
    assert evaluator._start.experimental_get_tracing_count() == 1
    # What is compiled reads the weights as they are now.
    assert second[0].accuracy != first[0].accuracy
    assert second[0].correct == np.sum(cases.predict(model, x[:9]) == y[:9])
