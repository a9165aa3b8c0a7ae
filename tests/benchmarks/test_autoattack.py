"""AutoAttack's benchmarks: the bridge to Torch, the contestants and the tables."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import autoattack, autoattack_strength, ensembles


@pytest.fixture(scope="module")
def task():
    inputs = keras.Input([6, 5, 3])
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Dense(16, activation="relu")(keras.layers.Flatten()(x))
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    draws = np.random.default_rng(0)
    model.set_weights([draws.normal(size=each.shape) for each in model.get_weights()])
    # Two parts suffice: each takes seconds to trace.
    return ensembles.Task(model, 4.0, num_steps=3, num_queries=5, parts=("APGD-CE", "Square"))


@pytest.fixture(scope="module")
def images(task):
    """Twelve images, and labels that are right for ten of them."""
    images = np.random.default_rng(1).uniform(0, 255, [12, 6, 5, 3]).astype(np.float32)
    labels = task.model.predict(images, verbose=0).argmax(axis=-1).astype(np.int32)
    labels[:2] = (labels[:2] + 1) % 10
    return images, labels


def test_compaction_leaves_the_same_images_right(task, images):
    compacted = ensembles.ours(task, 4)(*images)
    assert list(compacted) == ["APGD-CE", "Square"]
    assert 10 > compacted["APGD-CE"] >= compacted["Square"] > 0
    assert ensembles.uncompacted(task, 4)(*images) == {"Square": compacted["Square"]}


def test_the_bridge_computes_logits_and_gradient_of_the_network(task, images):
    torch = pytest.importorskip("torch")
    logits_of = ensembles.bridge(task.model)
    theirs = torch.from_numpy(images[0].transpose(0, 3, 1, 2) / np.float32(255)).requires_grad_()
    slope = np.random.default_rng(2).normal(size=[12, 10]).astype(np.float32)
    with tf.GradientTape() as tape:
        ours = tf.constant(images[0])
        tape.watch(ours)
        logits = task.model(ours)
    expected = tape.gradient(logits, ours, slope).numpy().transpose(0, 3, 1, 2) * 255
    outputs = logits_of(theirs)
    outputs.backward(torch.from_numpy(slope))
    np.testing.assert_allclose(outputs.detach().numpy(), logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(theirs.grad.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert not logits_of(theirs.detach()).requires_grad


def test_what_the_original_leaves_is_read_from_its_log():
    lines = [
        "initial accuracy: 90.00%",
        "apgd-ce - 1/1 - 3 out of 10 successfully perturbed",
        "robust accuracy after APGD-CE: 58.33% (total time 1.0 s)",
        "robust accuracy after APGD-T: 8.33% (total time 2.0 s)",
        "robust accuracy: 8.33%",
    ]
    remaining = ensembles.remaining_in(lines, ensembles.PARTS, 12)
    assert remaining == {"APGD-CE": 7, "APGD-T": 1, "FAB-T": 0, "Square": 0}


def timings():
    seconds = {"tfadv": 2.0, "tfadv bfloat16": 1.0, "the original": 5.0}
    whole = {
        "case": "AutoAttack",
        "seconds": {name: [value] * 3 for name, value in seconds.items()},
        "left": {"tfadv": 5, "tfadv bfloat16": 5, "the original": 4},
        "ratios": [
            {"of": "the original", "to": to, **dict.fromkeys(("min", "median", "max"), value)}
            for to, value in (("tfadv", 2.5), ("tfadv bfloat16", 5.0))
        ],
    }
    settings = {
        "network": "a network",
        "images": 10,
        "clean_accuracy": 0.9,
        "epsilon": 1.0,
        "num_steps": 20,
        "num_queries": 1000,
    }
    machine = {"cpu_flags": [], "gpus": []}
    return {"machine": machine, "settings": settings, "results": [whole]}


def test_the_table_of_times_says_what_was_required_and_what_was_reached():
    table = autoattack.table(timings())
    row = "| the original | tfadv | AutoAttack | at least 3 | 2.50 (2.50 to 2.50) | no |"
    assert row in table
    row = "| the original | tfadv bfloat16 | AutoAttack | at least 3 | 5.00 (5.00 to 5.00) | yes;"
    assert row in table
    assert "10 images, 90.0% of them right without an attack" in table
    assert "| AutoAttack | the original | 0.500 (0.500 to 0.500) | 40.0% |" in table


@pytest.mark.parametrize(
    "ours, theirs, expected",
    [
        (100, (100, 101, 101), "| 50.0 | 50.0, 50.5, 50.5 | -0.3 | 0.5 | yes |"),
        (104, (100, 102, 103), "| 52.0 | 50.0, 51.0, 51.5 | +1.2 | 1.5 | yes |"),
        (103, (100, 100, 101), "| 51.5 | 50.0, 50.0, 50.5 | +1.3 | 0.5 | no |"),
    ],
)
def test_strength_may_differ_by_half_a_point_or_by_what_seeds_differ(ours, theirs, expected):
    def left(count):
        return {"APGD-CE": 120, "APGD-T": 110, "FAB-T": 110, "Square": count}

    result = {
        "network": "a network",
        "epsilon": 8,
        "images": 200,
        "clean": 0.9,
        "tfadv": {"0": left(ours)},
        "original": {str(seed): left(count) for seed, count in enumerate(theirs)},
    }
    table = autoattack_strength.table({"results": [result]})
    assert f"| a network | 8 | 200 | 90.0 {expected}" in table
    assert "| a network | 8 | 60.0 (60.0) | 55.0 (55.0) |" in table
