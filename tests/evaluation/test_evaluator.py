"""Counts against independent computations, on any number of workers; refused arguments."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import workers
from tests.evaluation import cases
from tfadv import data, evaluation, models
from tfadv.attacks import PGD


def counts(results):
    return [(result.correct, result.hits) for result in results]


def loop(model, x, labels, attack, num_steps, seed):
    """Correct and hit, for each image: one image and one step at a time, in NumPy."""
    weights, bias = (value.astype(float) for value in model.get_weights())

    def logits(image):
        return (image.ravel() * 2 / 255 - 1) @ weights + bias

    step = max(attack.step_size, attack.epsilon / num_steps)
    keys = np.stack([np.full(len(x), seed), np.arange(len(x))], 1)
    correct, hit = np.ones(len(x), bool), np.zeros(len(x), bool)
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
            correct[i] &= predicted == labels[i]
            hit[i] |= predicted == goal if attack.targeted else predicted != labels[i]
    return correct, hit


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("restarts", [1, 3])
def test_counts_equal_a_loop_over_single_images(targeted, restarts):
    model = cases.regression()
    x, y = cases.images(model, 26)
    attack = PGD(4, num_steps=9, targeted=targeted, restarts=restarts)
    evaluator = evaluation.Evaluator(model, attack, [8, 2, 2], seed=6)
    results = evaluator((x, y), batch_size=4)
    images = evaluator.correct_images()
    assert [(result.num_steps, result.step_size) for result in results] == [
        (0, None),
        (2, 2.0),
        (8, 1.0),
    ]
    assert results[0].correct == np.sum(cases.predict(model, x) == y) == 20
    before = cases.predict(model, x) == y
    for result in results[1:]:
        correct, hit = loop(model, x, y, attack, result.num_steps, seed=6)
        assert (result.correct, result.hits) == (correct.sum(), hit.sum())
        np.testing.assert_array_equal(images[results.index(result)], correct)
        assert result.regained == np.sum(correct & ~before)
        before = correct
        assert 0 < result.correct < 20 and 0 < result.hits < 26
    assert {result.total for result in results} == {26}
    if restarts > 1 and targeted:
        one = evaluation.evaluate(model, (x, y), attack.replace(restarts=1), 8, seed=6)
        assert one[-1].correct > results[-1].correct and one[-1].hits < results[-1].hits


def test_one_pass_gives_the_bits_of_separate_runs(monkeypatch):
    model = cases.mixture()
    x, y = cases.images(model, 8)
    attack = PGD(6)
    evaluator = evaluation.Evaluator(model, attack, [3, 7, 11], seed=3)
    (network,) = evaluator.networks
    images, indices = tf.cast(x, tf.float32), np.arange(8)
    network.predict(images)
    for step_size, numbers in ((2.0, [3]), (1.0, [7, 11])):
        trajectory = evaluator.trajectory(network, images, y, indices, step_size, numbers)
        for number, adversarial, goals in trajectory:
            separate, separate_goals = attack.replace(num_steps=number)(
                network,
                x,
                y,
                value_range=(0, 255),
                seed=np.stack([np.full(8, 3), indices], 1),
                return_targets=True,
            )
            np.testing.assert_array_equal(adversarial, separate)
            np.testing.assert_array_equal(goals, separate_goals)

    steps = []
    advance = PGD.advance

    def spy(attack, network, images, current, goals, num_steps, step_size, value_range):
        steps.append((num_steps, step_size))
        return advance(attack, network, images, current, goals, num_steps, step_size, value_range)

    monkeypatch.setattr(PGD, "advance", spy)
    evaluator((x, y), batch_size=8)
    assert steps == [(3, 2.0), (7, 1.0), (4, 1.0)]


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
    dataset = data.ArrayDataset("pixels", (x, y), (x, y), cases.CLASSES)
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


def test_padding_is_no_image_of_zeros():
    # A model that standardizes each image would divide by zero.
    inputs = keras.Input(cases.SHAPE)
    flat = keras.layers.Flatten()(inputs)
    mean = keras.ops.mean(flat, axis=1, keepdims=True)
    standard = (flat - mean) / keras.ops.std(flat, axis=1, keepdims=True)
    model = keras.Model(inputs, keras.layers.Dense(cases.CLASSES)(standard))
    x, y = cases.images(model, 5)
    results = evaluation.evaluate(model, (x, y), PGD(2, num_steps=2), value_range=(0, 255))
    assert results[0].correct == 4


def test_logits_of_nan_count_as_misclassified():
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


class Counted(keras.layers.Layer):
    """Counts how often it is traced."""

    count = 0

    def call(self, x):
        self.count += 1
        return x


def test_nothing_is_traced_again():
    mixture, layer = cases.mixture(), Counted()
    inputs = keras.Input(cases.SHAPE)
    model = keras.Model(inputs, mixture(layer(inputs)))
    x, y = cases.images(model, 14)
    counts_of_traces = []
    for num_steps in (4, [2, 4, 6]):
        evaluator = evaluation.Evaluator(
            model, PGD(4, restarts=2), num_steps, ("adv", "clean"), value_range=(0, 255)
        )
        layer.count = 0
        evaluator((x, y), batch_size=4)
        counts_of_traces.append(layer.count)
    # One graph serves all step sizes and numbers of steps.
    assert counts_of_traces[0] == counts_of_traces[1] > 0
    first = evaluator((x, y), batch_size=4)
    for variable in model.trainable_variables:
        variable.assign(variable.value * 0.5)
    second = evaluator((x[:9], y[:9]), batch_size=4)
    assert layer.count == counts_of_traces[1]
    # The compiled graphs read the current weights.
    assert second[0].accuracy != first[0].accuracy
    assert second[0].correct == np.sum(cases.predict(model, x[:9]) == y[:9])


def test_any_number_of_workers_draws_and_counts_the_same(together, monkeypatch):
    model = cases.mixture()
    x, y = cases.images(model, 31)
    dataset = data.ArrayDataset("pixels", (x, y), (x, y), cases.CLASSES)
    evaluator = evaluation.Evaluator(model, PGD(6, restarts=2), [3, 6], seed=9)
    start = evaluator.start
    draws = {}

    def spy(images, labels, indices, num_classes, restart=0):
        starts, goals = start(images, labels, indices, num_classes, restart)
        for i in np.flatnonzero(indices >= 0):
            draw = int(goals[i]), starts[i].numpy().tobytes()
            draws.setdefault((int(indices[i]), restart), []).append(draw)
        return starts, goals

    monkeypatch.setattr(evaluator, "start", spy)
    expected = evaluator((x, y), 4)
    clean, three, six = (result.correct for result in expected)
    assert 0 < six <= three < clean < 31 and expected[1].hits > 0
    draws_of_one, draws = draws, {}
    # An image that was hit at once is not attacked again.
    assert {index for index, _ in draws_of_one} == set(range(31)) and 31 < len(draws_of_one) < 62
    for size, given, batch_size in (
        (2, (x, y), 4),
        (3, dataset, 4),
        (5, (x, y), 4),
        (2, dataset, 7),
    ):
        draws = {}
        results = together(size, lambda rank, args=(given, batch_size): evaluator(*args))
        assert results == [expected] * size
        # Each image twice, because each of the two numbers of steps has a step size of its own.
        assert draws == draws_of_one


def test_workers_have_as_many_batches_and_may_have_no_image(together):
    model = cases.regression()
    x, y = cases.images(model, 31)
    evaluator = evaluation.Evaluator(model, PGD(6, num_steps=3))
    expected = evaluator((x, y), 4, 3)
    batches = []

    def progress(*done):
        batches.append(done)

    for given in ((x, y), data.ArrayDataset("pixels", (x, y), (x, y), cases.CLASSES)):
        results = together(5, lambda rank, given=given: evaluator(given, 4, 3, progress))
        assert results == [expected] * 5 and results[0][0].total == 3
    assert batches == [(1, 1)] * 10


def evaluated_and_doubted():
    """The results, and the doubts about a model that gives only some images a gradient."""
    model = cases.mixture()
    evaluator = evaluation.Evaluator(model, PGD(6, restarts=2), [3, 6], seed=9)
    results = evaluator(cases.images(model, 31), batch_size=4)
    images = evaluator.correct_images().tolist()
    assert [sum(row) for row in images] == [result.correct for result in results]
    inputs = keras.Input(cases.SHAPE)
    x = keras.layers.Lambda(lambda x: tf.where(x[:, :1, :1] > 128, x, tf.stop_gradient(x)))(inputs)
    model = keras.Model(inputs, cases.regression()(x))
    evaluator = evaluation.Evaluator(model, PGD(40, 8, 5))
    given = cases.images(model, 37)
    doubts = evaluation.doubts(evaluator, evaluator(given, 4), given, 4)
    return results, [str(doubt) for doubt in doubts], images


def test_real_workers_count_and_doubt_as_one_process():
    one = evaluated_and_doubted()
    assert one[1] and workers.run(evaluated_and_doubted, 2) == [one, one]


MODEL = cases.regression()
X, Y = cases.images(MODEL, 6)
BATCHED = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)
ONE_STEP = PGD(2, num_steps=1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_steps": []}, "num_steps must name at least one"),
        ({"num_steps": [10, -1]}, "num_steps must be an integer of at least 1; received -1"),
        ({"num_steps": 0}, "num_steps must be an integer of at least 1; received 0"),
        ({"attack": None, "num_steps": 10}, "num_steps must be None without an attack"),
        ({"attack": "PGD"}, "attack must be a tfadv.attacks.Attack or None; received 'PGD'"),
        ({"domains": ()}, 'domains must be of "adv" and "clean"; received []'),
        ({"domains": "advclean"}, 'domains must be of "adv" and "clean"; received [\'advclean\']'),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1; received 0"),
        ({"limit": 0}, "limit must be an integer of at least 1; received 0"),
        ({"seed": -1}, "seed must be an integer of at least 0; received -1"),
        ({"value_range": (0, 1)}, "value_range must be (0.0, 255.0), which the input contract"),
        ({"data": 3}, "data must be a tfadv.data.Dataset, a pair"),
        ({"data": (X, Y[:5])}, "data must be at least one image and a label for each"),
        ({"data": (X[:0], Y[:0])}, "data must be at least one image and a label for each"),
        ({"data": (X[:, :4], Y)}, "data must have images of shape (6, 6, 3), which model"),
        ({"data": (X, np.eye(7)[Y])}, "data must have 5 classes, as the outputs of model"),
        ({"data": (X, Y + 1.5)}, "labels must be integers [batch] or one-hot"),
        ({"data": (X, Y + 3)}, "labels must lie between 0 and 4"),
        ({"data": (X - 1.0, Y)}, "images must lie inside value_range=(0, 255)"),
        ({"data": (X - 1.0, Y), "attack": None}, "images must lie inside value_range=(0, 255)"),
        ({"data": BATCHED.unbatch()}, "data must be batched"),
        ({"data": BATCHED.repeat()}, "data must end, or limit be given"),
        ({"data": BATCHED.map(lambda x, y: x)}, "data must give pairs (images, labels)"),
        ({"data": BATCHED.take(0)}, "data must hold at least one image; received none"),
        ({"data": data.load("digits")}, "data must have images of shape (6, 6, 3), which model"),
    ],
)
def test_wrong_arguments(options, message):
    options = {"data": (X, Y), "attack": ONE_STEP, **options}
    with pytest.raises(ValueError, match="^" + re.escape(message)) as error:
        evaluation.evaluate(MODEL, **options)
    assert "\n" not in str(error.value)


class Opaque(keras.Model):
    """A model whose outputs cannot be seen from outside."""

    def __init__(self, inner, activation=keras.activations.linear):
        super().__init__()
        self.inner = inner
        self.activation = activation

    def call(self, images, training=False):
        return self.activation(self.inner(images))


def functional(last, dtype="float32"):
    """A model that ends in a layer, and carries no input contract."""
    inputs = keras.Input(cases.SHAPE, dtype=dtype)
    return keras.Model(inputs, last(keras.layers.Flatten()(keras.layers.Rescaling(1.0)(inputs))))


def test_wrong_models():
    classes = keras.layers.Dense(cases.CLASSES)
    binary = functional(keras.layers.Dense(1, activation="sigmoid"))
    for model, message in (
        (functional(lambda x: [x, x]), "model must have one input of images and one output"),
        (
            keras.Sequential([keras.Input(cases.SHAPE), keras.layers.ReLU()]),
            r"model must return \[",
        ),
        (binary, "model must have an output for each of at least two"),
        (Opaque(binary), r"model must return .* at least two classes; .* \(4, 1\)"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            evaluation.evaluate(model, (X, Y), batch_size=4)
    for model, message in (
        (functional(keras.layers.Dense(5, activation="hard_sigmoid")), "model must end in logits"),
        (functional(classes, "uint8"), "model must take floating-point images .* is uint8, "),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            evaluation.evaluate(model, (X, Y), ONE_STEP, value_range=(0, 255))
        assert evaluation.evaluate(model, (X, Y))[0].total == 6  # without an attack
    with pytest.raises(ValueError, match="^value_range must be given, as model"):
        evaluation.evaluate(functional(classes), (X, Y), ONE_STEP)
    assert evaluation.evaluate(functional(classes), (X, Y))[0].total == 6
    probabilities = Opaque(MODEL, keras.ops.softmax)
    with pytest.raises(ValueError, match="^logits_fn must return logits; it returned prob"):
        evaluation.evaluate(probabilities, (X, Y), ONE_STEP)
    with pytest.raises(ValueError, match="^labels must lie between 0 and 4"):
        evaluation.evaluate(probabilities, (X, Y + 3))
