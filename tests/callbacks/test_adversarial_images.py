import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tfadv
from tests.evaluation import cases
from tfadv import attacks, inspection
from tfadv.callbacks import AdversarialImages, AdversarialTraining

ATTACK = attacks.PGD(epsilon=40, step_size=8, num_steps=3)


def test_writes_the_evaluations_adversarial_images(tmp_path, monkeypatch):
    model = cases.regression()
    x, y = cases.images(model, 12)
    drawn = []
    original = inspection.pairs_figure

    def draw(*arguments):
        drawn.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(tfadv.inspection, "pairs_figure", draw, raising=False)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    names = [f"class {i}, also" for i in range(cases.CLASSES)]
    model.fit(
        x.astype("float32"), y, batch_size=6, epochs=3, verbose=0, shuffle=False,
        callbacks=[
            AdversarialTraining(None),
            AdversarialImages(tmp_path, (x, y), ATTACK, 3, every=2, seed=5, class_names=names),
        ],
    )  # fmt: skip
    events = EventAccumulator(str(tmp_path), {"tensors": 0})
    events.Reload()
    [event] = events.Tensors("adversarial_images")
    assert event.step == 4
    image = tf.io.decode_png(event.tensor_proto.string_val[2])
    assert image.shape[0] > 400 and np.ptp(image.numpy()) == 255

    [(clean, adversarial, epsilon, captions, value_range)] = drawn
    np.testing.assert_array_equal(clean, x[:3])
    assert (epsilon, value_range, adversarial.shape) == (40, (0.0, 255.0), (3, *cases.SHAPE))
    change = np.abs(adversarial - clean)
    assert change.max() <= 40 and change.max() > 20
    assert captions[0][0].startswith(f"label class {y[0]}\npredicted class ")
    assert "target class" in captions[0][1]


def test_mistakes_show_before_training(tmp_path):
    with pytest.raises(ValueError, match="count must be an integer of at least 1"):
        AdversarialImages(tmp_path, None, ATTACK, count=0)
