"""Eq. 1, logit pairing, label smoothing and weight decay, against their formulas in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import cases
from tfadv import models
from tfadv.training.batches import Mixture
from tfadv.training.losses import mixture_loss

COUNT = 10
X, Y = cases.images(COUNT)
WEIGHTS = np.linspace(0.5, 2.0, COUNT).astype("float32")


def computed(model, ratio, weights=None, **options):
    """The loss of one mini-batch, and the losses by domain."""
    batch = Mixture(tf.constant(X), tf.constant(cases.mirrored(X)), tf.constant(Y), weights, ratio)
    loss, by_domain = mixture_loss(model, batch, model(batch.images), **options)
    return float(loss), {domain: float(value) for domain, value in by_domain.items()}


def by_image(model, ratio):
    """Cross entropies of the adversarial images and of the clean ones that stay."""
    stay = cases.kept(COUNT, ratio)
    return (
        cases.cross_entropy(cases.logits(model, cases.mirrored(X)), Y),
        cases.cross_entropy(cases.logits(model, X[:stay]), Y[:stay]),
    )


@pytest.mark.parametrize("ratio", [1.0, 0.4, 0.0])
def test_equals_the_mean_over_all_images(ratio):
    model = cases.compiled(cases.network())
    adversarial, clean = by_image(model, ratio)
    loss, by_domain = computed(model, ratio)
    assert loss == pytest.approx(np.concatenate([adversarial, clean]).mean(), rel=1e-6)
    assert by_domain["adv"] == pytest.approx(adversarial.mean(), rel=1e-6)
    assert list(by_domain) == (["adv", "clean"] if ratio else ["adv"])
    if ratio:
        assert by_domain["clean"] == pytest.approx(clean.mean(), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_takes_the_clean_weight(alpha):
    model = cases.compiled(cases.network())
    adversarial, clean = by_image(model, 0.6)
    loss, _ = computed(model, 0.6, clean_weight=alpha)
    assert loss == pytest.approx(alpha * clean.mean() + (1 - alpha) * adversarial.mean(), rel=1e-6)


@pytest.mark.parametrize("ratio", [1.0, 0.4])
def test_pairs_every_clean_image_with_its_counterpart(ratio):
    model = cases.compiled(cases.network())
    stay = cases.kept(COUNT, ratio)
    clean, adversarial = cases.logits(model, X), cases.logits(model, cases.mirrored(X))
    pairing = ((clean[:stay] - adversarial[:stay]) ** 2).mean()
    expected = np.concatenate(by_image(model, ratio)).mean() + 0.5 * pairing
    assert computed(model, ratio, pairing_weight=0.5)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("ratio", "alpha"), [(1.0, None), (0.2, 0.7), (0.0, None)])
def test_decays_weights_once(ratio, alpha):
    # 1e-4 * sum(w^2) / 2, whatever the ratio and the weight of the clean images.
    model = cases.compiled(cases.network(decay=5e-5))
    model.get_layer("logits").kernel.assign(model.get_layer("logits").kernel * 100)
    adversarial, clean = by_image(model, ratio)
    images = np.concatenate([adversarial, clean]).mean()
    if alpha is not None:
        images = alpha * clean.mean() + (1 - alpha) * adversarial.mean()
    decay = 1e-4 * np.square(model.get_layer("logits").kernel.numpy(), dtype="float64").sum() / 2
    loss, _ = computed(model, ratio, clean_weight=alpha)
    assert loss == pytest.approx(images + decay, rel=1e-6)
    assert decay > 0.01 * loss


@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_weights_images(ratio):
    # Keras divides by the number of images, not by the sum of their weights.
    model = cases.compiled(cases.network())
    adversarial, clean = by_image(model, ratio)
    expected = np.concatenate([adversarial * WEIGHTS, clean * WEIGHTS[: len(clean)]]).mean()
    assert computed(model, ratio, weights=tf.constant(WEIGHTS))[0] == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize("norm", ["bn", "mbn", "gn"])
@pytest.mark.parametrize("ratio", [1.0, 0.4])
def test_pairs_logits_after_each_normalization(norm, ratio):
    # ALP with BN, MBN and GN as the paper trains it, with smoothed labels.
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model = cases.compiled(cases.normalized(norm, width=8), loss=loss)
    values = {v.path: v.numpy().astype("float64") for v in model.variables}
    stay = cases.kept(COUNT, ratio)
    images = np.concatenate([cases.mirrored(X), X[:stay]])
    x = images.reshape(len(images), -1) @ values["dense/kernel"]
    parts = {"norm/": x}
    if norm == "mbn":
        parts = {"norm/adv/": x[:COUNT], "norm/clean/": x[COUNT:]}
    z = []
    for path, part in parts.items():
        # Group normalization makes four groups of eight channels, image by image.
        shaped, axis = (part.reshape(-1, 4, 2), 2) if norm == "gn" else (part, 0)
        centred = shaped - shaped.mean(axis, keepdims=True)
        normal = centred / np.sqrt(np.square(centred).mean(axis, keepdims=True) + 1e-5)
        z.append(normal.reshape(part.shape) * values[path + "gamma"] + values[path + "beta"])
    z = np.concatenate(z) @ values["logits/kernel"] + values["logits/bias"]
    expected = cases.cross_entropy(z, np.concatenate([Y, Y[:stay]]), smoothing=0.1).mean()
    expected += 0.5 * np.square(z[:stay] - z[COUNT:]).mean()

    labels = tf.constant(cases.one_hot(Y))
    batch = Mixture(tf.constant(X), tf.constant(cases.mirrored(X)), labels, None, ratio)
    outputs = models.call(model, batch.images, training=True, domain=batch.domain)
    loss, _ = mixture_loss(model, batch, outputs, pairing_weight=0.5)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
