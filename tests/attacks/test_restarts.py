import numpy as np
import pytest
import tensorflow as tf

from tfadv.attacks import PGD


def levels(case, result, goals):
    predicted = case.model.logits(np.asarray(result, float)).argmax(1)
    return np.where(predicted == case.labels, 0, np.where(predicted == goals, 2, 1))


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("targeted", [True, False])
def test_each_image_keeps_its_strongest_restart(make_case, targeted, loss):
    case = make_case(images=60)
    case.labels = case.model.logits(case.images).argmax(1)
    attack = PGD(3, 0.5, 4, targeted=targeted, loss=loss, restarts=6)
    given = {"value_range": case.range, "seed": (2, 3)}
    result, goals = attack(case.model, case.images, case.labels, return_targets=True, **given)

    best = np.full(60, -1.0), np.full(60, -np.inf)
    expected, expected_goals = case.images.copy(), case.labels.copy()
    for restart in range(6):
        start, aims = attack.start(case.images, case.labels, 7, **given, restart=restart)
        adversarial = attack.advance(
            case.model, case.images, start, aims, 4, attack.effective_step_size, case.range
        ).numpy()
        logits = case.model.logits(adversarial.astype(float))
        own = logits[np.arange(60), aims]
        if loss == "margin":
            others = logits.copy()
            others[np.arange(60), aims] = -np.inf
            score = others.max(1) - own
        else:
            score = np.log(np.exp(logits - own[:, None]).sum(1))
        score = -score if targeted else score
        level = levels(case, adversarial, aims if targeted else -1)
        better = (level > best[0]) | ((level == best[0]) & (score > best[1]))
        best = np.where(better, level, best[0]), np.where(better, score, best[1])
        expected[better], expected_goals[better] = adversarial[better], aims.numpy()[better]
        if restart == 0:
            one, one_goals = attack.replace(restarts=1)(
                case.model, case.images, case.labels, return_targets=True, **given
            )
            np.testing.assert_array_equal(one, adversarial)
            first = level
    np.testing.assert_array_equal(goals, expected_goals)
    np.testing.assert_array_equal(result, expected)
    reached = levels(case, result, goals.numpy() if targeted else -1)
    assert np.all(reached >= first)
    assert np.mean(reached > 0) > np.mean(first > 0) or not targeted
    assert np.any(reached == 0) and np.any(reached > 0)


def test_strength_ranks_hits_above_misses():
    logits = tf.constant([[0, 5, 1], [0, 1, 5], [5, 0, 1]], tf.float16)
    labels, targets = tf.constant([0, 0, 0]), tf.constant([1, 1, 1])
    level, score = PGD(loss="margin").strength(logits, labels, targets)
    assert level.numpy().tolist() == [2, 1, 0]
    assert score.numpy().tolist() == [4, -4, -5]
    level, score = PGD(targeted=False, loss="margin").strength(logits, labels, labels)
    assert level.numpy().tolist() == [1, 1, 0]
    assert score.numpy().tolist() == [5, 5, -4]


def test_restarts_with_given_targets_keep_them(case):
    targets = (case.labels + 2) % 7
    _, goals = PGD(8, num_steps=2, restarts=3)(
        case.model, case.images, case.labels, value_range=case.range, seed=(0, 0),
        targets=targets.astype("int32"), return_targets=True,
    )  # fmt: skip
    np.testing.assert_array_equal(goals, targets)
