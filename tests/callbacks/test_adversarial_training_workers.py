"""Adversarial training on real Horovod workers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tests import workers
from tests.training import cases as small
from tests.training import keras_metrics
from tfadv import distributed

CLASSES = 5


def network(norm):
    keras.utils.clear_session()  # names, by which variables are compared, are counted up
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 3))
    x = tfadv.layers.InputContract()(inputs)
    for stage in range(2):
        x = keras.layers.Conv2D(8, 3, kernel_regularizer=keras.regularizers.L2(1e-4))(x)
        if norm:
            x = tfadv.layers.normalization(norm, 8, name=f"norm{stage}")(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))


def images(count):
    rng = np.random.default_rng(5)
    x = rng.uniform(0, 255, (count, 8, 8, 3)).astype("float32")
    return x, rng.integers(0, CLASSES, count)


def train(
    norm,
    per_update,
    parts,
    updates,
    epsilon=8.0,
    targeted=True,
    optimizer="sgd",
    compression="none",
):
    """Trains on this worker's share of every update; returns all variables of the model."""
    rank, size = distributed.rank(), distributed.size()
    model = network(norm)
    if rank:
        # What rank 0 broadcasts must win.
        for variable in model.variables:
            variable.assign(variable.value + tf.cast(rank, variable.dtype))
    optimizer = {
        "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        "clipped": lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.05),
        "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
    }[optimizer]()
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    x, y = images(per_update * updates)
    mine = per_update // size
    rows = np.concatenate(
        [update * per_update + rank * mine + np.arange(mine) for update in range(updates)]
    )
    batches = tf.data.Dataset.from_tensor_slices((x[rows], y[rows]))
    attack = tfadv.attacks.PGD(epsilon, num_steps=2 if epsilon else 0, targeted=targeted)
    history = model.fit(
        batches.batch(mine, drop_remainder=True),
        shuffle=False,
        verbose=0,
        callbacks=[
            tfadv.callbacks.AdversarialTraining(
                attack, accumulation_steps=parts, compression=compression
            )
        ],
    )
    return (
        {variable.path: variable.numpy() for variable in model.variables},
        {name: values[-1] for name, values in history.history.items()},
    )


def assert_same_bits(results):
    first = results[0]
    for other in results[1:]:
        for name, value in first[0].items():
            np.testing.assert_array_equal(value, other[0][name], err_msg=name)
        assert first[1] == other[1]


def assert_close(actual, expected, tolerance):
    for name, value in expected[0].items():
        np.testing.assert_allclose(actual[0][name], value, rtol=0, atol=tolerance, err_msg=name)
    for name, value in expected[1].items():
        assert actual[1][name] == pytest.approx(value, abs=1e-5), name


# Eight workers on two cores take most of their minute to start.
COUNTS = [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (3, 8))]
# What every number of workers trains, in one launch: it takes most of such a test's time.
STEP = (None, 24, 1, 1, 0.0, False)
TWENTY = ("mbn", 48, 1, 20)
# And what two workers train besides: parts of 6 images, with the same draws as one worker's.
ACCUMULATED = {norm: (norm, 24, 2, 3) for norm in ("bn", "mbn")}
OPTIMIZED = {name: ("gn", 16, 1, 3, 4.0, True, name) for name in ("clipped", "scaled")}
COMPRESSED = (*STEP, "sgd", "fp16")


def train_all(cases):
    results = {case: train(*case) for case in cases}
    means = distributed.mean([tf.constant(values) for values in arrays(distributed.rank())], "m", 2)
    results |= {"means": [mean.numpy() for mean in means]}
    if distributed.size() == 2:
        results["metrics"] = metrics_of_my_share(keras_metrics.names(sparse=False))
        with pytest.raises(ValueError) as raised:
            metrics_of_my_share([keras_metrics.MaxOutput])
        results["no sum"] = str(raised.value)
    return results


def metrics_of_my_share(metrics):
    """Metrics of clean training, by name or class, on this worker's half of the images."""
    model = keras_metrics.classifier(
        [keras_metrics.make(each) if isinstance(each, str) else each() for each in metrics]
    )
    x, y = small.images(24)
    mine = slice(distributed.rank(), None, distributed.size())
    training = tfadv.callbacks.AdversarialTraining(None, accumulation_steps=2)
    fit = {"batch_size": 6, "shuffle": False, "verbose": 0, "callbacks": [training]}
    history = model.fit(x[mine], small.one_hot(y)[mine], **fit).history
    return {name: values[-1] for name, values in history.items()}


def arrays(rank):
    """What a worker averages with the others."""
    rng = np.random.default_rng(rank)
    return [rng.normal(size=shape).astype("float32") for shape in ((3, 5), (), (4,))]


@pytest.fixture(scope="module")
def trained():
    results = {}

    def get(count):
        if count not in results:
            cases = [STEP, TWENTY]
            if count == 2:
                cases += [*ACCUMULATED.values(), *OPTIMIZED.values(), COMPRESSED]
            results[count] = workers.run(train_all, count, cases)
        return results[count]

    return get


@pytest.mark.parametrize("count", COUNTS)
def test_workers_make_the_step_of_one_with_all_their_images(trained, count):
    # Without batch statistics and at epsilon 0, where the adversarial images are the images.
    results = [result[STEP] for result in trained(count)]
    assert_same_bits(results)
    assert_close(results[0], train(*STEP), 1e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_workers_hold_the_same_bits_after_twenty_adversarial_steps(trained, count):
    assert_same_bits([result[TWENTY] for result in trained(count)])


@pytest.mark.parametrize("norm", ["bn", "mbn"])
def test_two_workers_equal_one_that_accumulates(trained, norm):
    # The same parts of 6 images: 2 workers x 2 parts = 1 worker x 4 parts.
    case = ACCUMULATED[norm]
    results = [result[case] for result in trained(2)]
    assert_same_bits(results)
    assert_close(results[0], train(norm, 24, 4, 3), 1e-5)


@pytest.mark.parametrize("optimizer", ["clipped", "scaled"])
def test_clipping_and_loss_scaling_see_the_averaged_gradient(trained, optimizer):
    case = OPTIMIZED[optimizer]
    results = [result[case] for result in trained(2)]
    assert_same_bits(results)
    assert_close(results[0], train("gn", 16, 2, 3, 4.0, True, optimizer), 1e-4)


def test_compressed_gradients(trained):
    # The first two tensors travel in float16, and so does what is computed of them.
    halves = [[values.astype("float16") for values in arrays(rank)] for rank in (0, 1)]
    expected = [(a + b) / np.float16(2) for a, b in zip(*halves, strict=True)]
    expected[2] = (arrays(0)[2] + arrays(1)[2]) / 2
    for result in trained(2):
        for mean, value in zip(result["means"], expected, strict=True):
            assert mean.dtype == np.float32
            np.testing.assert_array_equal(mean, value)
    # An update by such gradients is that of one worker but for their last bits.
    results = [result[COMPRESSED] for result in trained(2)]
    one = train(*STEP)
    assert_same_bits(results)
    assert_close(results[0], one, 1e-4)
    exact = trained(2)[0][STEP][0]
    assert any(np.any(value != exact[name]) for name, value in results[0][0].items())
    assert "communication_share" not in one[1]  # of whom nothing is sent


@pytest.mark.parametrize("count", COUNTS)
def test_workers_know_the_share_of_their_communication(trained, count):
    assert 0 < trained(count)[0][TWENTY][1]["communication_share"] < 1


def test_metrics_of_two_workers_are_those_of_all_images(trained):
    names = keras_metrics.names(sparse=False)
    model = keras_metrics.classifier([keras_metrics.make(name) for name in names])
    x, y = small.images(24)
    plain = model.evaluate(x, small.one_hot(y), batch_size=24, verbose=0, return_dict=True)
    for result in trained(2):
        for name in names:
            np.testing.assert_allclose(result["metrics"][name], plain[name], 1e-4, err_msg=name)


def test_two_workers_refuse_metrics_that_do_not_add_up(trained):
    for result in trained(2):
        message = result["no sum"]
        assert message.startswith("metrics must be sums over images to be added up over")
        assert "received 'MaxOutput/most', which is not" in message
