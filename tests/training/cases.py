"""Small networks, an attack with known images, and Eq. 1 worked out in NumPy."""

import contextlib
import warnings

import keras
import numpy as np
import tensorflow as tf

import tfadv

CLASSES = 4
SHAPE = (2, 2, 3)
# Names that adversarial training adds to the logs of `fit`.
OURS = {"adv_loss", "adv_accuracy", "attack_success", "clean_loss", "clean_accuracy"}


class Mirror(tfadv.attacks.Attack):
    """An attack with known results: mirrored images, and as targets the next class."""

    __setattr__ = object.__setattr__  # some tests count in attributes

    def __init__(self):
        super().__init__(targeted=True)

    def __call__(self, logits_fn, images, labels, *, value_range, num_classes, **_):
        if labels.shape.rank == 2:
            labels = tf.argmax(labels, axis=-1)
        return sum(value_range) - images, (labels + 1) % (num_classes or CLASSES)


def mirrored(x):
    return 1.0 - x


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (count, *SHAPE)).astype("float32"), rng.integers(0, CLASSES, count)


def one_hot(y):
    return np.eye(CLASSES, dtype="float32")[y]


def network(*hidden, decay=None, bias=True):
    """Flattened images, `hidden` layers, and a linear classifier."""
    inputs = x = keras.Input(SHAPE)
    for layer in (keras.layers.Flatten(), *hidden):
        x = layer(x)
    dense = keras.layers.Dense(
        CLASSES,
        use_bias=bias,
        kernel_initializer=keras.initializers.GlorotNormal(seed=1),
        bias_initializer=keras.initializers.RandomNormal(seed=2),
        kernel_regularizer=decay and keras.regularizers.L2(decay),
        name="logits",
    )
    return keras.Model(inputs, dense(x))


def normalized(norm, width=6):
    """A dense layer, a normalization called `norm` with random variables, and a classifier."""
    keras.utils.set_random_seed(3)
    layer = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="norm")
    if norm != "keras":
        layer = tfadv.layers.normalization(norm, width, name="norm")
    model = network(keras.layers.Dense(width, use_bias=False, name="dense"), layer)
    rng = np.random.default_rng(4)
    for variable in layer.variables:  # away from zeros and ones
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def compiled(model, optimizer=None, loss=None, **options):
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss, **options)
    return model


def train(model, x, y, attack=None, callbacks=(), fit=(), **options):
    """One epoch of adversarial training in the given order; its logs."""
    training = tfadv.callbacks.AdversarialTraining(
        attack or Mirror(), **{"value_range": (0, 1), **options}
    )
    fit = {"batch_size": len(x), "shuffle": False, "verbose": 0, **dict(fit)}
    history = model.fit(x, y, callbacks=[training, *callbacks], **fit)
    return {name: values[-1] for name, values in history.history.items()}


def logits(model, x):
    """The logits of a linear network, in float64."""
    dense = model.get_layer("logits")
    bias = dense.bias.numpy() if dense.use_bias else 0.0
    return x.reshape(-1, np.prod(SHAPE)).astype("float64") @ dense.kernel.numpy() + bias


def cross_entropy(z, y, smoothing=0.0):
    """The cross entropy of each image."""
    log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    wanted = one_hot(y) * (1 - smoothing) + smoothing / CLASSES
    return -(wanted * log_p).sum(axis=-1)


def kept(count, ratio):
    """Returns the number of clean images that are kept: halves rounded up, at least one."""
    return max(1, int(np.floor(ratio * count + 0.5))) if ratio else 0


def state(model):
    """All values of a model and of its optimizer."""
    return [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]


def assert_equal_bits(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_near(actual, expected, tolerance=1e-6):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@contextlib.contextmanager
def warnings_for_users():
    """Gives the list of the warnings for users; NumPy 2 has others about Keras up to 3.13."""
    kept = []
    with warnings.catch_warnings(record=True) as every:
        warnings.simplefilter("always")
        yield kept
    kept.extend(warning for warning in every if issubclass(warning.category, UserWarning))
