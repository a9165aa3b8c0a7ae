"""Each doubt is raised by a model, attack or counts made for it, and by no honest evaluation."""

import dataclasses
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tfadv
from tests.evaluation import cases
from tfadv import attacks, evaluation
from tfadv.evaluation import Result

ATTACK = attacks.PGD(epsilon=40, step_size=8, num_steps=5)


def checked(model, attack=ATTACK, num_steps=5, count=40, after=None, **options):
    """The doubts about an evaluation, by check and domain."""
    data = cases.images(model, count)
    evaluator = evaluation.Evaluator(model, attack, num_steps, **options)
    results = evaluator(data, batch_size=16)
    if after is not None:
        after()
    doubts = evaluation.doubts(evaluator, results, data, batch_size=16)
    return {(doubt.check, doubt.domain): str(doubt) for doubt in doubts}


def around(layer, last=False):
    """The softmax regression with a layer before or after it."""
    inputs = keras.Input(cases.SHAPE)
    contract, flat, dense = cases.regression().layers[1:]
    x = contract(inputs)
    return keras.Model(inputs, layer(dense(flat(x))) if last else dense(flat(layer(x))))


class Lambda(keras.layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(targeted=False, restarts=2),
        dict(targeted=False, loss="margin"),
        dict(epsilon=2, step_size=1e-3, step_size_rule="fixed"),  # hardly an attack
    ],
)
@pytest.mark.filterwarnings("ignore:step_size is in pixels")
def test_an_honest_evaluation_raises_no_doubt(options):
    assert checked(cases.regression(), ATTACK.replace(**options)) == {}


@pytest.mark.parametrize("fooled, doubted", [(0, False), (2, False), (3, True)])
def test_a_square_attack_that_finds_what_gradients_miss(fooled, doubted):
    evaluator = evaluation.Evaluator(cases.regression(), attacks.AutoAttack(4))
    counts = {"APGD-CE": 700, "APGD-T": 600, "FAB-T": 590, "Square": 590 - fooled}
    clean = Result(domain=None, num_steps=0, correct=900, total=1000)
    result = Result(
        domain=None, num_steps=None, correct=590 - fooled, total=1000, hits=410 + fooled,
        regained=0, attack="AutoAttack", remaining=counts,
    )  # fmt: skip
    raised = evaluation.doubts(evaluator, [clean, result])
    assert [doubt.check for doubt in raised] == ["no gradient needed"] * doubted
    if doubted:
        assert "which knows no gradient, fools 3 of 1000 images that" in raised[0].message


@pytest.mark.slow
def test_an_honest_evaluation_in_l2_raises_no_doubt():
    model = cases.mixture()
    evaluator = evaluation.Evaluator(model, attacks.PGD(0.3, 0.05, 10, norm="l2"))
    data = cases.images(model, 40)
    clean, attacked = evaluator(data, 8)
    assert attacked.correct < clean.correct and attacked.norm == "l2"
    assert "in L2: epsilon 0.3 for images from 0 to 1" in evaluation.table([clean, attacked])
    assert evaluation.doubts(evaluator, [clean, attacked], data, 8) == []


def test_an_honest_evaluation_of_both_branches_raises_no_doubt():
    assert checked(cases.mixture(), domains=("adv", "clean")) == {}
    # Nor does rounding to 8 bits.
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert checked(cases.mixture()) == {}
    finally:
        keras.config.set_dtype_policy("float32")


def shares(text):
    """Percentages correct under both attacks, and the numbers of images correct under only one."""
    number = r"([\d.]+)"
    pattern = f"leaves {number}% of 256 .* evaluated {number}% .*: {number} and {number} images"
    return [float(group) for group in re.search(pattern, text).groups()]


def right_of_a_linear_network(model, count, epsilon):
    """Percentage correct, if each pixel goes to the worst end of its ball."""
    x, y = cases.images(model, count)
    kernel, bias = model.layers[-1].get_weights()
    x = x.astype(float)
    logits = (x.reshape(count, -1) / 127.5 - 1) @ kernel + bias
    low, high = np.maximum(x - epsilon, 0.0), np.minimum(x + epsilon, 255.0)
    margins = []
    for i, label in enumerate(y):
        slopes = kernel - kernel[:, [label]]
        ends = np.where(slopes > 0, high[i].reshape(-1, 1), low[i].reshape(-1, 1))
        worst = np.sum((ends - x[i].reshape(-1, 1)) / 127.5 * slopes, axis=0)
        margins.append(np.delete(logits[i] - logits[i, label] + worst, label).max())
    return 100 * np.mean(np.array(margins) < 0)


def test_too_few_steps_from_a_random_start():
    # From the image, five steps of a fifth of epsilon reach the end of the ball, which on a linear
    # network is the worst point; from a random start only half of the pixels get there.
    model = cases.regression()
    attack = attacks.PGD(4, 0.8, 5, targeted=False, loss="margin", step_size_rule="fixed")
    worst = right_of_a_linear_network(model, 256, 4)
    doubts = checked(model, attack, [5, 20], 256)
    # The check compares the fewest steps.
    assert list(doubts) == [("start", None)] and checked(model, attack, 20, 256) == {}
    text = doubts["start", None]
    by_image, by_evaluated, image_alone, evaluated_alone = shares(text)
    assert by_image == pytest.approx(worst, abs=0.1) and by_evaluated > by_image + 4
    assert image_alone == 0 and evaluated_alone == round((by_evaluated - by_image) * 2.56) > 9
    assert "start: started from the image itself, PGD-5 leaves " in text
    assert "(evaluate with start_from_clean=1, or with more steps)" in text
    assert checked(model, attack.replace(start_from_clean=1.0), 5, 256) == {}
    # Forty images are too few to tell.
    assert checked(model, attack, 5, 40) == {}


def scaled(factor):
    model = cases.regression()
    model.set_weights([value * factor for value in model.get_weights()])
    return model


@pytest.mark.parametrize("factor", [20, 0.02])
def test_a_result_that_depends_on_the_scale_of_the_logits(factor):
    attack = attacks.PGD(6, 1, 20, targeted=False)
    assert checked(scaled(1), attack, 20, 256) == {}
    text = checked(scaled(factor), attack, 20, 256)["scale of the logits", None]
    usual, evaluated, *_ = shares(text)
    assert evaluated > usual + 4
    assert right_of_a_linear_network(scaled(factor), 256, 6) == pytest.approx(usual, abs=0.1)
    assert "(evaluate with the margin loss)" in text
    assert checked(scaled(factor), attack.replace(loss="margin"), 20, 256) == {}


@pytest.mark.parametrize("name,within", [("sigmoid", "0 and 1"), ("tanh", "-1 and 1")])
def test_outputs_that_are_no_logits(name, within):
    # In a layer, so that the evaluation cannot leave the activation out.
    model = around(Lambda(lambda x: getattr(tf, name)(x)), last=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        text = checked(model)["bounded outputs", None]
    assert (
        f"for 32 images, under attacks without bounds too, lie between {within}, as those" in text
    )
    assert f" of a {name}; " in text
    texts = [str(each.message) for each in caught if each.category is UserWarning]
    assert [text[:40] for text in texts] == ["logits_fn must return logits, but all th"] * (
        name == "sigmoid"
    )


def test_small_logits_are_not_bounded_outputs():
    assert ("bounded outputs", None) not in checked(around(Lambda(lambda x: x / 1e3), last=True))


@pytest.mark.parametrize("factor", [1, 8])
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_a_final_activation_changes_nothing(name, factor):
    # If it is saturated, several classes are the largest.
    raw = scaled(factor)
    model = keras.Model(raw.inputs, keras.layers.Activation(name)(raw.outputs[0]))
    data = cases.images(raw, 40)
    results = [evaluation.evaluate(each, data, ATTACK, 5) for each in (raw, model)]
    assert results[0] == results[1]
    evaluator = evaluation.Evaluator(model, ATTACK.replace(loss="margin"))
    assert evaluation.doubts(evaluator, evaluator(data), data) == []


def dead(text):
    """Numbers of images without a gradient: at the start, and after some steps."""
    return [int(text.split(before)[1].split()[0]) for before in ("images, ", "start and ")]


def test_operations_without_a_gradient():
    doubts = checked(around(Lambda(lambda x: tf.tanh(1e5 * (x + 1e-3)))))
    text = doubts["vanishing gradient", None]
    assert text.startswith("vanishing gradient: of 32 images, ")
    # All except the few that are classified as the target by chance.
    assert 20 < dead(text)[0] == dead(text)[1] < 32
    assert f"the attack succeeds on {32 - dead(text)[0]} of 32 " in doubts["unbounded attack", None]


def test_a_saturated_softmax():
    attack = ATTACK.replace(targeted=False)
    assert "try the margin loss" in checked(scaled(1e3), attack)["vanishing gradient", None]
    assert checked(scaled(1e3), attack.replace(loss="margin")) == {}


def test_gradients_that_vanish_on_the_way():
    def flat_where_undecided(logits):
        first, second = tf.unstack(tf.math.top_k(logits, 2).values, axis=1)
        # A step changes the difference by about 1.
        undecided = (first - second < 1.5)[:, None]
        return tf.where(undecided, tf.stop_gradient(logits), logits)

    model = around(Lambda(flat_where_undecided), last=True)
    attack = ATTACK.replace(targeted=False, loss="margin", epsilon=10, step_size=1)
    start, after = dead(checked(model, attack)["vanishing gradient", None])
    assert start < 10 < 20 < after


@tf.custom_gradient
def reversed_gradient(x):
    return x, lambda slope: -slope


def test_reversed_gradients():
    reverse = around(Lambda(reversed_gradient))
    attack = ATTACK.replace(targeted=False, epsilon=100, step_size=20)
    doubts = {check: text for (check, _), text in checked(reverse, attack).items()}
    assert "vanishing gradient" not in doubts and "unbounded attack" in doubts
    assert "the gradient foretells on 0 of " in doubts["wrong gradient"]
    # One image in four starts wrong, and this attack makes it right.
    text = "PGD-5 leaves 100.0% right and clean 75.0% (right under the one alone: 10 and 0"
    assert text in doubts["more steps"]
    text = "10 draws of noise but not after 10 attack steps, and 0 the other way"
    assert text in doubts["random noise"]


class WrongBranch(attacks.PGD):
    """Attacks the clean branch, whatever network it gets."""

    def advance(self, logits_fn, *arguments):
        return super().advance(self.clean, *arguments)


def test_the_clean_branch_attacked_and_the_adv_branch_reported():
    model = cases.mixture()

    def clean(images):
        return tfadv.models.call(model, images, domain="clean")

    attack = WrongBranch(**ATTACK.get_config())
    WrongBranch.clean = staticmethod(clean)
    text = checked(model, attack)["wrong gradient", "adv"]
    agreeing, compared = text.split("foretells on ")[1].split(" images")[0].split(" of ")
    assert int(agreeing) < 12 < 24 < int(compared)
    # As an evaluation of the clean branch it is honest, but the model predicts with the other one.
    doubts = checked(model, attack, domains=("clean",))
    assert list(doubts) == [("other branch", "clean")]
    assert "other branch (clean branch): this branch alone" in doubts["other branch", "clean"]


def test_a_switch_that_compiled_graphs_do_not_see():
    branches = tfadv.models.extract(cases.mixture(), "adv"), cases.regression()
    switch = Lambda(lambda x: branches[switch.branch](x))
    switch.branch = 0
    inputs = keras.Input(cases.SHAPE)
    model = keras.Model(inputs, switch(inputs))
    doubts = checked(model, after=lambda: setattr(switch, "branch", 1), value_range=(0, 255))
    assert doubts["other network", None].startswith("other network: the model itself gives ")


def test_a_random_network():
    noisy = around(Lambda(lambda x: x + tf.random.normal(tf.shape(x))))
    assert {("other network", None), ("wrong gradient", None)} <= set(checked(noisy))


@pytest.mark.parametrize("lost", [0, 1, 80])
def test_more_steps_that_leave_more_right(lost):
    """McNemar's exact test of the same images, here by SciPy."""
    evaluator = evaluation.Evaluator(cases.regression(), ATTACK, [10, 100])
    doubted = []
    for regained in range(150):
        correct = 200 - lost + regained
        rows = (0, 300, None), (10, 200, 0), (100, correct, regained)
        results = [
            Result(domain=None, num_steps=number, correct=right, total=1000, regained=again)
            for number, right, again in rows
        ]
        doubts = evaluation.doubts(evaluator, results)
        test = stats.binomtest(regained, regained + lost or 1, alternative="greater")
        significant = bool(regained and test.pvalue < 0.001)
        assert [doubt.check for doubt in doubts] == ["more steps"] * significant
        if significant:
            share = f"{correct / 10:.1f}% right and PGD-10 20.0%"
            assert doubts[0].message.startswith(f"PGD-100 leaves {share}")
        doubted.append(significant)
    assert not doubted[0] and doubted[-1]


def test_without_an_attack_there_is_no_doubt():
    assert checked(cases.regression(), attack=None, num_steps=None) == {}


def test_a_worker_without_images_doubts_as_the_others(together):
    model = around(Lambda(lambda x: tf.tanh(1e5 * (x + 1e-3))))  # which has no gradient
    data = cases.images(model, 2)

    def work(rank):
        evaluator = evaluation.Evaluator(model, ATTACK)
        return evaluation.doubts(evaluator, evaluator(data, batch_size=4), data, 4)

    one = work(0)
    assert one and together(3, work) == [one] * 3


APGD = attacks.APGD(epsilon=24, num_steps=5)


@pytest.mark.filterwarnings("ignore:logits_fn must return logits")
def test_a_network_alone_is_looked_at_under_attacks_that_do_not_advance():
    assert checked(cases.regression(), APGD) == {}
    noisy = around(Lambda(lambda x: x + tf.random.normal(tf.shape(x), stddev=0.01)))
    text = checked(noisy, APGD)["random network", None]
    assert "a second pass gives other logits for 32 of 32 images; the network is random" in text
    averaged = APGD.replace(gradient_samples=2)  # made for random networks
    assert ("random network", None) not in checked(noisy, averaged)

    model = around(Lambda(lambda x: tf.tanh(1e5 * (x + 1e-3))))
    # Three images in four are classified correctly.
    text = "of 32 images, 24 are classified correctly and have no gradient of the cross entropy"
    assert text in checked(model, APGD)["zero gradient", None]
    assert "zero gradient" not in {
        check for check, _ in checked(model, attacks.Square(24, 3), None)
    }

    sigmoid = around(Lambda(tf.sigmoid), last=True)
    text = checked(sigmoid, APGD)["bounded outputs", None]
    assert "all outputs for 32 images, and for their negatives, lie between 0 and 1, as" in text


def test_a_network_without_any_gradient():
    """Its operations have no derivative, so that only the square attack can be evaluated."""
    model = around(Lambda(lambda x: tf.cast(tf.cast(x, tf.int32), tf.float32)))
    assert checked(model, attacks.Square(40, 3), None) == {}


def test_a_softmax_is_refused_in_one_line():
    softmax = around(Lambda(tf.nn.softmax), last=True)
    with pytest.raises(ValueError, match="must return logits; it returned probabilities .*softmax"):
        checked(softmax, APGD)


def test_fewer_classes_than_an_attack_aims_at():
    attack = attacks.APGD(8, 1, loss="targeted_dlr", num_targets=9)
    text = "the model has 5 classes, so APGD-T can aim at 4 wrong ones instead of 9; "
    assert text in checked(cases.regression(), attack, 1)["few classes", None]
    assert checked(cases.regression(), attack.replace(num_targets=4), 1) == {}


def test_an_attack_that_undercuts_pgd():
    """Large logits leave cross entropy no gradient, but the difference of logits ratio one."""
    model = scaled(1e3)
    attack = attacks.APGD(6, 20, loss="targeted_dlr", num_targets=4)
    doubts = checked(model, attack, 20, 256)
    text = doubts["PGD is fooled", None]
    alone = right_of_a_linear_network(model, 256, 6)
    assert f"% of 256 images right, and APGD-T-20 {alone:.1f}% (right under the one al" in text
    by_pgd = float(text.split("untargeted PGD-20 leaves ")[1].split("%")[0])
    assert f": {round(2.56 * (by_pgd - alone))} and 0 images); the gradient misleads" in text
    assert by_pgd > 70 and ("zero gradient", None) in doubts
    assert checked(scaled(1), attack, 20, 256) == {}


@pytest.mark.parametrize("changes, doubted", [
    ({}, True), ({"targeted": True}, False), ({"epsilon": 5.0}, False), ({"norm": "l2"}, False)
])  # fmt: skip
def test_what_was_evaluated_before_is_compared(tmp_path, changes, doubted):
    right = np.zeros([3, 1000], bool)
    right[0, :900] = right[1, 5:710] = right[2, :680] = True
    clean, pgd, auto = (
        Result(domain=None, num_steps=steps, correct=int(row.sum()), total=1000, **options)
        for row, (steps, options) in zip(
            right,
            [
                (0, {}),
                (20, {"epsilon": 4.0, "targeted": False, "regained": 0, **changes}),
                (None, {"epsilon": 4.0, "attack": "AutoAttack", "remaining": {}, "regained": 0}),
            ],
            strict=True,
        )
    )
    model = cases.regression()
    strong = evaluation.Evaluator(model, attacks.AutoAttack(4))
    strong.outcomes_by_index = {
        index: np.stack([right[[0, *[2] * 4], index]] * 3, -1)[None] for index in range(1000)
    }
    path = tmp_path / "pgd.json"
    # Evaluated on fewer images.
    fewer = [dataclasses.replace(each, total=900, correct=int(row[:900].sum()))
             for each, row in zip((clean, pgd), right[:2], strict=True)]  # fmt: skip
    evaluation.write_json(path, fewer, right[:2, :900], model="m")
    *other, details = evaluation.read_json(path)
    assert other[0] == fewer and details == {"model": "m"}
    np.testing.assert_array_equal(other[1], right[:2, :900])
    doubts = evaluation.doubts(strong, [clean, auto], others=[other])
    assert [doubt.check for doubt in doubts] == ["PGD is fooled"] * doubted
    if doubted:
        text = "untargeted PGD-20 leaves 78.3% of 900 images right, and AutoAttack 75.6% (right "
        assert text + "under the one alone: 30 and 5 images); " in doubts[0].message

    # The other way round it is the same.
    weak = evaluation.Evaluator(model, attacks.PGD(4, targeted=False))
    weak.outcomes_by_index = {
        index: np.stack([right[:2, index]] * 3, -1)[None] for index in range(900)
    }
    again = evaluation.doubts(weak, fewer, others=[([clean, auto], right[[0, 2]])])
    assert [str(doubt) for doubt in again] == [str(doubt) for doubt in doubts]


def test_a_file_without_results_is_refused(tmp_path):
    for text in ("{}", "[", '{"results": [{"total": "x"}]}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"x\.json holds no results of an evaluation \("):
            evaluation.read_json(tmp_path / "x.json")
