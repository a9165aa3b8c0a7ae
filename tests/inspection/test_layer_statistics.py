import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tfadv import inspection

NAMES = ("moving_mean", "moving_variance", "gamma", "beta")


def assert_equal(record, layer):
    for name in NAMES:
        np.testing.assert_array_equal(getattr(record, name), getattr(layer, name))
    assert record.epsilon == layer.epsilon


def test_statistics_of_mixtures_in_network_order(resnet):
    records = inspection.statistics(resnet)
    assert [r.domain for r in records] == ["adv", "clean"] * (len(records) // 2)
    paths = [r.path for r in records[::2]]
    assert paths == [r.path for r in records[1::2]]
    assert len(paths) == len(set(paths)) == 9  # seven convolutions and two shortcuts
    stages = [path.split("_")[0] for path in paths]
    assert stages == ["norm0"] + ["res2"] * 2 + ["res3"] * 3 + ["res4"] * 3
    # The norm1 of a block comes before its norm2, in whatever order Keras keeps them.
    for number, path in enumerate(paths):
        if path.endswith("norm2"):
            assert path.replace("norm2", "norm1") in paths[:number]

    layers = {layer.name: layer for layer in tfadv.models.mixtures(resnet)}
    for record in records:
        assert_equal(record, getattr(layers[record.path], record.domain))


def test_statistics_of_nested_models_and_plain_batch_normalization(fill_model):
    inner = keras.Sequential(
        [
            keras.Input((5,)),
            tfadv.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(3),
            tfadv.layers.MixtureBatchNormalization(name="mix", scale=False),
        ],
        name="inner",
    )
    inputs = keras.Input((5,))
    x = keras.layers.BatchNormalization(name="norm")(inputs)
    x = keras.layers.BatchNormalization(name="last", center=False)(inner(x))
    model = fill_model(keras.Model(inputs, x))

    records = inspection.statistics(model)
    assert [(r.path, r.domain) for r in records] == [
        ("norm", None),
        ("inner/norm", None),
        ("mix", "adv"),
        ("mix", "clean"),
        ("last", None),
    ]
    layers = [
        model.get_layer("norm"),
        inner.get_layer("norm"),
        inner.get_layer("mix").adv,
        inner.get_layer("mix").clean,
        model.get_layer("last"),
    ]
    for record, layer in zip(records, layers, strict=True):
        np.testing.assert_array_equal(record.moving_mean, layer.moving_mean)
        np.testing.assert_array_equal(record.moving_variance, layer.moving_variance)
    assert records[2].gamma is None and records[3].beta is not None
    assert records[4].beta is None and records[4].gamma is not None
    assert records[0].epsilon == pytest.approx(1e-3) and records[1].epsilon == pytest.approx(1e-5)


def test_a_layer_that_is_called_twice_has_one_record():
    norm = keras.layers.BatchNormalization(name="norm")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, norm(norm(inputs)))
    assert [r.path for r in inspection.statistics(model)] == ["norm"]


def test_shared_affine_parameters_show_in_both_branches(fill_model):
    options = {"affine": "shared"}
    model = fill_model(
        tfadv.models.SmallResNet(8, norm="mbn", image_size=8, width=2, norm_options=options)
    )
    for adv, clean in inspection.pairs(inspection.statistics(model)).values():
        np.testing.assert_array_equal(adv.gamma, clean.gamma)
        np.testing.assert_array_equal(adv.beta, clean.beta)
        assert not np.array_equal(adv.moving_mean, clean.moving_mean)


def test_records_are_copies(resnet):
    record = inspection.statistics(resnet)[0]
    before = record.moving_mean.copy()
    resnet.get_layer("norm0").adv.moving_mean.assign_add([1.0] * 4)
    np.testing.assert_array_equal(record.moving_mean, before)
    record.moving_mean[:] = 7
    assert not np.any(resnet.get_layer("norm0").adv.moving_mean.numpy() == 7)


def test_half_precision_statistics_become_float32():
    layer = keras.layers.BatchNormalization(dtype="bfloat16")
    model = keras.Sequential([keras.Input((4,)), layer])
    assert inspection.statistics(model)[0].moving_variance.dtype == np.float32


def test_models_without_batch_normalization_and_unbuilt_ones():
    model = tfadv.models.SmallResNet(8, norm="gn", image_size=8, width=2)
    assert inspection.statistics(model) == []
    unbuilt = keras.Sequential([keras.layers.BatchNormalization(name="norm")])
    with pytest.raises(ValueError, match="must be built; its layer 'norm'"):
        inspection.statistics(unbuilt)


X = np.random.default_rng(1).normal(size=(6, 3, 2, 5)).astype("float32")


def moments(x):
    return x.mean(axis=(0, 1, 2), dtype="float64"), x.var(axis=(0, 1, 2), dtype="float64")


def network(fill_model):
    """A plain batch normalization, a nested mixture after it, and one of Keras's own."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input([3, 2, 5])
    inner = keras.Input([3, 2, 4])
    nested = keras.Model(
        inner, tfadv.layers.MixtureBatchNormalization(name="mixture")(inner), name="nested"
    )
    x = keras.layers.Dense(4, name="first")(inputs)
    x = tfadv.layers.BatchNormalization(name="plain")(x)
    x = nested(x)
    x = keras.layers.BatchNormalization(momentum=0.99, name="keras")(x)
    model = fill_model(keras.Model(inputs, x))
    # So large that no digit of a batch statistic would be left in the difference to them.
    for layer in (model.get_layer("plain"), model.get_layer("keras")):
        layer.moving_mean.assign([1e7, -1e7, 1e6, 0])
        layer.moving_variance.assign([1e9, 1e8, 1e7, 0])
    return model


@pytest.mark.parametrize(
    ("domain", "adversarial"), [(4, 4), ("clean", 0), ("adv", 6), (tf.constant(6), 6)]
)
def test_batch_statistics_equal_numpy(fill_model, domain, adversarial):
    model = network(fill_model)
    before = {v.path: v.numpy() for v in model.variables}
    measured = {(s.path, s.domain): s for s in inspection.batch_statistics(model, X, domain)}

    def normalized(x, layer):
        mean, variance = moments(x)
        return (x - mean) / np.sqrt(variance + layer.epsilon) * layer.gamma + layer.beta

    first = model.get_layer("first")
    seen = {}
    x = X @ first.kernel.numpy() + first.bias.numpy()
    seen["plain", None] = x
    x = normalized(x, model.get_layer("plain"))
    mixture = model.get_layer("nested").get_layer("mixture")
    parts = {"adv": x[:adversarial], "clean": x[adversarial:]}
    parts = {branch: part for branch, part in parts.items() if len(part)}
    seen |= {("mixture", branch): part for branch, part in parts.items()}
    x = np.concatenate([normalized(part, getattr(mixture, b)) for b, part in parts.items()])
    seen["keras", None] = x
    assert set(measured) == set(seen)
    for key, values in seen.items():
        mean, variance = moments(values)
        np.testing.assert_allclose(measured[key].mean, mean, atol=2e-6)
        np.testing.assert_allclose(measured[key].variance, variance, rtol=5e-6)
    assert all(np.array_equal(v, before[v.path]) for v in model.variables)


def test_frozen_layers_and_branches_without_images_have_no_batch_statistics(fill_model):
    model = network(fill_model)
    model.get_layer("plain").trainable = False
    keys = [(s.path, s.domain) for s in inspection.batch_statistics(model, X, "adv")]
    assert keys == [("mixture", "adv"), ("keras", None)]


@pytest.mark.skipif(
    "renorm" not in inspect.signature(keras.layers.BatchNormalization).parameters,
    reason="needs Keras 3.14",
)
def test_batch_renormalization_is_refused():
    renorm = keras.Sequential(
        [keras.Input([5]), keras.layers.BatchNormalization(renorm=True, name="r")]
    )
    with pytest.raises(ValueError, match="must not have renorm=True; its layer 'r' has"):
        inspection.batch_statistics(renorm, X[:, 0, 0])
