import numpy as np
import pytest

from tfadv import layers
from tfadv.tables import normalizations


@pytest.mark.parametrize(
    "norm,kind",
    [
        ("bn", layers.BatchNormalization),
        ("mbn", layers.MixtureBatchNormalization),
        ("gn", layers.GroupNormalization),
        ("ln", layers.GroupNormalization),
        ("in", layers.GroupNormalization),
    ],
)
def test_the_table_makes_the_layer(norm, kind):
    layer = layers.normalization(norm, 8, name="norm", gamma_initializer="zeros")
    assert type(layer) is kind and layer.name == "norm"
    with layers.scope.enter("adv"):
        assert not np.any(layer(np.random.default_rng(0).normal(size=(2, 3, 3, 8)), training=True))


@pytest.mark.parametrize("channels,groups", [(64, 32), (256, 32), (48, 8), (16, 8), (6, 1), (1, 1)])
def test_groups_of_group_normalization(channels, groups):
    assert layers.normalization("gn", channels).groups == groups


@pytest.mark.parametrize("norm,axes", [("ln", (1, 2, 3)), ("in", (1, 2)), ("gn", (1, 2, 4))])
def test_what_is_normalized_over(norm, axes):
    """Each image alone: over all of it, each channel, or each group of channels."""
    rng = np.random.default_rng(0)
    x = 3 * rng.normal(size=(2, 4, 5, 8)) + 1
    layer = layers.normalization(norm, 8)
    groups = x.reshape(2, 4, 5, layer.groups, -1) if norm == "gn" else x
    layer.build(x.shape)
    gamma, beta = rng.normal(size=(2, 8))
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    mean, variance = groups.mean(axes, keepdims=True), groups.var(axes, keepdims=True)
    normalized = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    for training in (False, True):
        outputs = layer(x.astype("float32"), training=training)
        np.testing.assert_allclose(outputs, gamma * normalized + beta, 1e-4, 1e-4)


def test_an_unknown_name_is_refused():
    known = ", ".join(normalizations.NORMALIZATIONS)
    with pytest.raises(ValueError, match=f"^norm must be one of {known}; received 'bb'$"):
        layers.normalization("bb", 8)
    with pytest.raises(ValueError, match="received None$"):
        normalizations.check(None)
