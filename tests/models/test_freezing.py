import keras
import numpy as np
import pytest

import tfadv
from tfadv.callbacks import AdversarialTraining

GENERATOR = np.random.default_rng(0)
X = GENERATOR.integers(0, 256, [8, 8, 8, 1]).astype("float32")
Y = GENERATOR.integers(0, 3, 8)


def trained(model, attack=True, ratio=1.0, parts=1):
    """Returns the names of the variables that two adversarial steps changed, and of the others."""
    tfadv.models.train_only_normalization(model)
    model.compile(
        keras.optimizers.SGD(0.5, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    before = {v.path: v.numpy() for v in model.variables}
    pgd = tfadv.attacks.PGD(epsilon=40, step_size=20, num_steps=1) if attack else None
    training = AdversarialTraining(
        pgd, clean_ratio=ratio, accumulation_steps=parts, value_range=(0, 255)
    )
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[training])
    moved, still = set(), set()
    for variable in model.variables:
        same = np.array_equal(variable, before[variable.path])
        (still if same else moved).add(variable.path.rsplit("/", 1)[-1])
    return moved, still


def resnet(norm):
    model = tfadv.models.SmallResNet(
        8, norm=norm, num_classes=3, image_size=8, channels=1, width=4, seed=1
    )
    for variable in model.variables:
        if variable.path.endswith("gamma"):  # else a block is its shortcut, and nothing in it moves
            variable.assign(GENERATOR.uniform(0.5, 1.5, variable.shape))
    return model


@pytest.mark.parametrize(
    ("norm", "options"),
    [
        ("bn", {"attack": False}),  # on clean images
        ("bn", {"ratio": 0.0}),  # on adversarial ones
        ("mbn", {"parts": 2}),
    ],
)
def test_kernels_keep_their_bits_and_normalization_moves(norm, options):
    moved, still = trained(resnet(norm), **options)
    assert still == {"kernel", "bias"}
    assert moved == {"gamma", "beta", "moving_mean", "moving_variance"}


def test_reaches_into_nested_models_and_finds_every_kind():
    inner = keras.Input([4])
    nested = keras.Sequential([keras.layers.Dense(4), keras.layers.LayerNormalization()])
    inner_model = keras.Model(inner, nested(inner))
    inputs = keras.Input([8, 8, 1])
    x = keras.layers.Dense(4)(keras.layers.Flatten()(inputs))
    x = keras.layers.GroupNormalization(2)(inner_model(x))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    tfadv.models.train_only_normalization(model)
    names = [v.path.rsplit("/", 2)[-2:] for v in model.trainable_variables]
    assert sorted({name for _, name in names}) == ["beta", "gamma"] and len(names) == 4


def test_a_file_of_it_can_be_trained_whole_again(tmp_path):
    model = resnet("bn")
    everything = len(model.trainable_variables)
    tfadv.models.train_only_normalization(model)
    model.save(tmp_path / "m.keras")
    again = resnet("bn")
    from tfadv.training import checkpoints

    checkpoints.initialize(again, tmp_path / "m.keras")
    assert len(again.trainable_variables) == everything
    for ours, theirs in zip(again.variables, model.variables, strict=True):
        assert ours.path == theirs.path
        np.testing.assert_array_equal(ours, theirs)


def test_refuses_what_it_cannot_do():
    inputs = keras.Input([3])
    with pytest.raises(ValueError, match="must have normalization layers with a gamma or beta"):
        tfadv.models.train_only_normalization(keras.Model(inputs, keras.layers.Dense(2)(inputs)))

    class Holds(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.BatchNormalization()

        def build(self, shape):
            self.own = self.add_weight(shape=(3,), name="own")
            self.inner.build(shape)

        def call(self, x):
            return self.inner(x * self.own)

    with pytest.raises(ValueError, match="must hold its weights in layers without layers in them"):
        tfadv.models.train_only_normalization(keras.Model(inputs, Holds()(inputs)))
