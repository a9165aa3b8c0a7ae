import copy
import inspect
import pickle
import re

import numpy as np
import pytest
import tensorflow as tf

from tfadv import arguments
from tfadv.attacks import PGD, checks


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
        ({"clip_start": None}, "clip_start must be one of False, True; received None"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        PGD(**arguments)
    assert "\n" not in str(caught.value)


def softmax(case):
    return lambda images: tf.nn.softmax(case.model(images) / 10)


class IntegerInput:
    """A network that casts its images, as a Keras model with an integer input does."""

    def __init__(self, model):
        self.model = model
        self.inputs = [tf.TensorSpec([None, 4, 5, 3], tf.uint8)]

    def __call__(self, images):
        return self.model(tf.cast(tf.cast(images, tf.uint8), tf.float32))


# Changes to a good call, and the error that must follow: eagerly a ValueError of one line, in a
# graph an error that contains this line.
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
    "seeds": (lambda case: {"seed": np.zeros([4, 2], int)}, "seed must be .* for 6 images"),
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
    "integer input": (
        lambda case: {"logits_fn": IntegerInput(case.model)},
        r"logits_fn must be differentiable; .* \(its input is uint8: cast the images to float\)",
    ),
    "one class": (
        lambda case: {"logits_fn": lambda images: case.model(images)[:, :1]},
        r"logits_fn must return .* at least two classes; .* \(6, 1\) .* tf.concat\(\[0 \* z, z\]",
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
        with pytest.raises(tf.errors.InvalidArgumentError, match=message) as caught:
            tf.function(attack)()
        # The operation's name stands before TensorFlow's page, and our line after it.
        first = re.sub(r"\W+", "_", message.partition(";")[0].replace("\\", ""))[:20]
        assert f"Detected at node {first}" in str(caught.value).splitlines()[2]
        with pytest.raises(ValueError, match=f"^{message}") as caught, checks.one_line():
            tf.function(attack)()
        assert "\n" not in str(caught.value)
    else:
        with pytest.raises(ValueError, match=message) as caught:
            (tf.function(attack) if in_graph else attack)()
        if not in_graph:
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["softmax", "broken", "range"])
def test_attacks_compiled_by_xla_are_checked_from_outside(case, name):
    change, message = BY_VALUE[name]
    good = {"logits_fn": case.model, "images": case.images, "labels": case.labels}
    given = {**good, "value_range": case.range, "seed": (0, 0), **change(case)}
    attack = PGD(num_steps=2, jit_compile=True, restarts=2)
    with pytest.raises(ValueError, match=message):
        attack(**given)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        tf.function(lambda: attack(**given))()


def test_advance_checks_its_logits(case):
    attack = PGD(num_steps=2)
    start, goals = attack.start(case.images, case.labels, 7, (0, 0), case.range)
    with pytest.raises(ValueError, match="it returned probabilities"):
        attack.advance(softmax(case), case.images, start, goals, 2, None, case.range)
    with pytest.raises(ValueError, match="images must lie inside value_range"):
        attack.start(case.images - 1, case.labels, 7, (0, 0), case.range)
    # The network was not called, so its outputs were not checked.
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


def test_rounding_may_leave_the_range():
    images = np.float32([[[[1.0000001]]], [[[-1.0000001]]]])
    result = PGD(16, num_steps=2)(
        lambda x: tf.concat([x[:, 0, 0], -x[:, 0, 0]], -1), images, [0, 1], value_range=(-1, 1),
        seed=(0, 0),
    )  # fmt: skip
    assert np.abs(result).max() <= 1


def test_other_errors_of_a_graph_are_left_as_they_are():
    @tf.function
    def broken(x):
        tf.debugging.assert_less(x, 0.0)
        return x

    with pytest.raises(tf.errors.InvalidArgumentError), checks.one_line():
        broken(1.0)


def test_warns_once_of_fractions_in_place_of_pixels():
    with pytest.warns(UserWarning, match=r"^epsilon is .* received 0.03137 .* give epsilon=8 here"):
        attack = PGD(epsilon=8 / 255)
    PGD(epsilon=0.3)
    attack.replace(num_steps=100)
    with pytest.warns(UserWarning, match=r"^step_size is .* give step_size=2 here") as caught:
        PGD(epsilon=8, step_size=2 / 255)
    assert len(caught) == 1 and caught[0].filename == __file__
    for usual in (dict(epsilon=0), dict(epsilon=1), dict(epsilon=2, step_size=0.25)):
        PGD(**usual)  # a warning is an error in tests


SCALED = "^images lie between .*, but value_range"


@pytest.mark.parametrize(
    "value_range,lowest,highest,meant",
    [
        ((0, 255), 0.1, 0.9, "(0, 1)"),
        ((0, 255), 0, 1, "(0, 1)"),
        ((-128, 127), -1, 1, "(-1, 1)"),
        ((-1, 1), 0, 1, "(0, 1)"),
        ((0, 255), 0, 0, None),  # black
        ((-1, 1), 0, 0, None),
        ((-1, 1), 0.1, 1, None),  # bright, perhaps
        ((-1, 1), -0.5, 0.5, None),
        ((0, 255), 0, 2, None),
        ((0, 1), 0, 1, None),
        ((0, 2), 0, 1, None),
    ],
)
def test_warns_once_of_images_scaled_to_another_range(
    make_case, value_range, lowest, highest, meant
):
    case = make_case(value_range)
    low, high = case.images.min(), case.images.max()
    images = lowest + (case.images - low) * ((highest - lowest) / (high - low))

    def attack():
        PGD(num_steps=1)(case.model, images, case.labels, value_range=value_range, seed=(0, 0))

    if meant is None:
        attack()
        return
    with pytest.warns(UserWarning, match=SCALED) as caught:
        attack()
        attack()
    assert len(caught) == 1 and f"(give value_range={meant} if" in str(caught[0].message)


def test_warns_once_of_bounded_outputs(case):
    def attack(logits_fn, **options):
        images, labels = case.images, case.labels
        PGD(num_steps=2, **options)(
            logits_fn, images, labels, value_range=case.range, seed=(0, 0), num_classes=7
        )

    attack(case.model)
    attack(lambda images: 0.0 * case.model(images))  # a last layer that begins at zero
    attack(lambda images: tf.tanh(case.model(images)))  # logits may be this small
    for options in ({}, {"restarts": 2}, {"jit_compile": True}):
        arguments.forget_warnings()
        with pytest.warns(UserWarning, match="^logits_fn must return logits, but all") as caught:
            for _ in range(2):
                attack(lambda images: tf.sigmoid(case.model(images)), **options)
        assert len(caught) == 1


def test_an_attack_never_changes(case):
    attack = PGD(num_steps=2)
    given = {"value_range": case.range, "seed": (0, 0)}
    adversarial = attack(case.model, case.images, case.labels, **given)
    for name in ("epsilon", "loss", "epsilom", "name", "_functions"):
        message = rf"^PGD.{name} cannot be assigned: .* attack.replace\(epsilon=8\), for a copy$"
        with pytest.raises(AttributeError, match=message):
            setattr(attack, name, 64)
        with pytest.raises(AttributeError, match=f"^PGD.{name} cannot be deleted: "):
            delattr(attack, name)
    assert attack.get_config() == PGD(num_steps=2).get_config()
    for copied in (
        copy.copy(attack),
        copy.deepcopy(attack),
        pickle.loads(pickle.dumps(attack)),
        attack.replace(),
    ):
        assert type(copied) is PGD and copied.get_config() == attack.get_config()
        again = copied(case.model, case.images, case.labels, **given)
        np.testing.assert_array_equal(again, adversarial)
        with pytest.raises(AttributeError, match="^PGD.epsilon cannot be assigned"):
            copied.epsilon = 1


class Counting(PGD):
    """A subclass with an argument and an attribute of its own."""

    def __init__(self, epsilon=4.0, word="x"):
        super().__init__(epsilon)
        self.word = word
        self.seen = []


def test_subclasses_set_their_own_attributes_as_they_are_made():
    attack = Counting(word="y")
    assert attack.replace(epsilon=2).get_config() == {"epsilon": 2.0, "word": "y"}
    assert repr(copy.deepcopy(attack)) == "Counting(epsilon=4.0, word='y')"
    with pytest.raises(AttributeError, match="^Counting.word cannot be assigned"):
        attack.word = "z"
    assert list(inspect.signature(Counting).parameters) == ["epsilon", "word"]
