import numpy as np
import pytest
import tensorflow as tf

from tfadv.attacks import PGD


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"epsilon": -3}, r"epsilon must be between 0 and 255 \(pixels of 255\); received -3"),
        ({"epsilon": 256}, "epsilon must be between 0 and 255"),
        ({"epsilon": float("nan")}, "epsilon must be .* received nan"),
        ({"epsilon": "16"}, "epsilon must be .* received '16'"),
        ({"step_size": 0}, "step_size must be a number above 0 .* received 0"),
        ({"step_size": float("inf")}, "step_size must be"),
        ({"num_steps": -1}, "num_steps must be an integer of at least 0; received -1"),
        ({"num_steps": 2.5}, "num_steps must be an integer .* received 2.5"),
        ({"num_steps": True}, "num_steps must be an integer"),
        ({"start_from_clean": 1.5}, "start_from_clean must be between 0 and 1; received 1.5"),
        ({"restarts": 0}, "restarts must be an integer of at least 1; received 0"),
        ({"loss": "hinge"}, "loss must be one of 'cross_entropy', 'margin'; received 'hinge'"),
        ({"step_size_rule": "x"}, "step_size_rule must be one of 'pipeline', 'fixed'; received"),
        ({"targeted": None}, "targeted must be one of True, False; received None"),
        ({"jit_compile": "auto"}, "jit_compile must be one of None, True, False; received 'auto'"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        PGD(**arguments)
    assert "\n" not in str(caught.value)


def softmax(case):
    return lambda images: tf.nn.softmax(case.model(images) / 10)


# What is changed of a good call, and what is said: eagerly as a ValueError of one line, in a graph
# as an error that contains it.
BY_VALUE = {
    "above": (
        lambda case: {"images": case.images + 1},
        r"images must lie inside value_range=\(0, 255\); their minimum and maximum are",
    ),
    "nan": (lambda case: {"images": case.images * np.nan}, "images must lie inside value_range"),
    "range": (
        lambda case: {"value_range": (-1, 1)},
        r"images must lie inside value_range=\(-1, 1\); their minimum and maximum are",
    ),
    "labels": (
        lambda case: {"labels": case.labels + 4},
        "labels must lie between 0 and 6; their minimum and maximum are",
    ),
    "negative": (lambda case: {"labels": case.labels - 7}, "labels must lie between 0 and 6"),
    "targets": (lambda case: {"targets": case.labels + 7}, "targets must lie between 0 and 6"),
    "softmax": (lambda case: {"logits_fn": softmax(case)}, "logits_fn must return logits; it ret"),
    "float16": (
        lambda case: {"logits_fn": lambda x: tf.cast(softmax(case)(x), tf.bfloat16)},
        "logits_fn must return logits; it returned probabilities",
    ),
    "broken": (
        lambda case: {"logits_fn": lambda x: case.model(x) * np.nan},
        "the gradient of the loss to the images is NaN",
    ),
}

BY_SHAPE = {
    "rank": (lambda case: {"images": case.images[0, 0, 0]}, r"images must be numbers \[batch"),
    "dtype": (lambda case: {"images": case.images > 9}, "images must be numbers .* received bool"),
    "fewer": (lambda case: {"labels": case.labels[:4]}, "labels must be one per image; .* 4 for 6"),
    "float": (lambda case: {"labels": case.labels * 1.0}, "labels must be integers .* float64"),
    "one_hot": (
        lambda case: {"labels": np.eye(9)[case.labels], "num_classes": 7},
        "labels must have 7 classes; received 9",
    ),
    "classes": (
        lambda case: {"labels": np.eye(9)[case.labels]},
        r"logits_fn must return logits of shape \(6, 9\); received \(6, 7\)",
    ),
    "seed": (lambda case: {"seed": (1, 2, 3)}, r"seed must be .* shape \[2\] or \[batch, 2\]"),
    "seeds": (lambda case: {"seed": np.zeros([5, 2], int)}, "seed must be .* for 6 images"),
    "float seed": (lambda case: {"seed": (1.0, 2.0)}, "seed must be int32 or int64"),
    "limits": (lambda case: {"value_range": (1, 0)}, r"value_range must be .*; received \(1, 0\)"),
    "no limits": (lambda case: {"value_range": None}, "value_range must be .*; received None"),
    "infinite": (lambda case: {"value_range": (0, float("inf"))}, "value_range must be"),
    "logits": (
        lambda case: {"logits_fn": lambda images: case.model(images)[None]},
        r"logits_fn must return floating-point logits \[batch, classes\]; received float32",
    ),
    "rows": (
        lambda case: {"logits_fn": lambda images: case.model(images)[:5]},
        r"logits_fn must return logits of shape \(6, None\); received \(5, 7\)",
    ),
    "constant": (
        lambda case: {"logits_fn": lambda images: case.model(tf.round(images))},
        "logits_fn must be differentiable",
    ),
}


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("name", [*BY_VALUE, *BY_SHAPE])
def test_input(case, name, in_graph):
    change, message = {**BY_VALUE, **BY_SHAPE}[name]
    good = {"logits_fn": case.model, "images": case.images, "labels": case.labels}
    given = {**good, "value_range": case.range, "seed": (0, 0), **change(case)}

    def attack():
        return PGD(num_steps=2, jit_compile=False)(**given)

    if in_graph and name in BY_VALUE:
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            tf.function(attack)()
    else:
        with pytest.raises(ValueError, match=message) as caught:
            (tf.function(attack) if in_graph else attack)()
        if not in_graph:
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["softmax", "broken", "range"])
def test_what_xla_compiles_is_checked_from_outside(case, name):
    change, message = BY_VALUE[name]
    good = {"logits_fn": case.model, "images": case.images, "labels": case.labels}
    given = {**good, "value_range": case.range, "seed": (0, 0), **change(case)}
    attack = PGD(num_steps=2, jit_compile=True, restarts=2)
    with pytest.raises(ValueError, match=message):
        attack(**given)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        tf.function(lambda: attack(**given))()


def test_advance_checks_what_it_sees(case):
    attack = PGD(num_steps=2)
    start, goals = attack.start(case.images, case.labels, 7, (0, 0), case.range)
    with pytest.raises(ValueError, match="it returned probabilities"):
        attack.advance(softmax(case), case.images, start, goals, 2, None, case.range)
    with pytest.raises(ValueError, match="images must lie inside value_range"):
        attack.start(case.images - 1, case.labels, 7, (0, 0), case.range)
    # Nothing was asked of the network, so nothing is known of it.
    attack.advance(softmax(case), case.images, start, goals, 0, None, case.range)


def test_value_range_has_no_default(case):
    with pytest.raises(TypeError, match="value_range"):
        PGD()(case.model, case.images, case.labels, seed=(0, 0))


def test_untargeted_attacks_take_no_targets(case):
    with pytest.raises(ValueError, match="targets must be None for an untargeted attack"):
        PGD(targeted=False)(
            case.model, case.images, case.labels, targets=case.labels, value_range=case.range,
            seed=(0, 0),
        )  # fmt: skip


def test_a_rounding_outside_of_the_range_is_none():
    images = np.float32([[[[1.0000001]]], [[[-1.0000001]]]])
    result = PGD(16, num_steps=2)(
        lambda x: tf.concat([x[:, 0, 0], -x[:, 0, 0]], -1), images, [0, 1], value_range=(-1, 1),
        seed=(0, 0),
    )  # fmt: skip
    assert np.abs(result).max() <= 1
