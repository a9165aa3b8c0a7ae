"""AutoAttack: its parts, and what they make together."""

import numpy as np
import pytest
import tensorflow as tf

from tests.attacks.test_apgd import SHAPE, make
from tfadv import attacks
from tfadv.attacks import APGD, FAB, AutoAttack, Square, autoattack


def test_the_versions_are_those_of_the_authors():
    def described(version):
        parts = AutoAttack(4, version).members
        assert {part.epsilon for part in parts} == {4.0}
        return [(part.name, part.restarts, part.num_targets) for part in parts]

    targeted = [("APGD-T-100", 1, 9), ("FAB-T-100", 1, 9)]
    square = ("Square", 1, None)
    assert described("standard") == [("APGD-CE-100", 1, None), *targeted, square]
    many = [("APGD-CE-100", 5, None), ("APGD-DLR-100", 5, None), ("FAB-100", 5, None)]
    assert described("plus") == [*many, square, *targeted]
    assert described("rand") == [("APGD-CE-100", 1, None), ("APGD-DLR-100", 1, None)]
    samples = {part.gradient_samples for part in AutoAttack(4, "rand").members}
    assert samples == {20}
    for version in ("standard", "plus"):
        [square] = [p for p in AutoAttack(4, version).members if isinstance(p, Square)]
        assert (square.num_queries, square.p) == (5000, 0.8)


def test_there_are_as_many_targets_as_classes_allow():
    counts = [[p.runs(c) for p in AutoAttack().members] for c in (4, 10, 1000)]
    assert counts == [[1, 3, 3, 1], [1, 9, 9, 1], [1, 9, 9, 1]]
    message = "^loss='targeted_dlr' needs at least 4 classes; received 3 .*apgd_ce, fab_targeted"
    with pytest.raises(ValueError, match=message):
        AutoAttack()(
            lambda x: tf.reshape(x, [-1, 32])[:, :3], np.zeros([2, *SHAPE]), [0, 1],
            value_range=(0, 1), seed=(0, 0),
        )  # fmt: skip


@pytest.fixture
def few_steps(monkeypatch):
    """Makes the standard version one of few steps."""
    parts = (
        lambda **shared: APGD(num_steps=3, **shared),
        lambda **shared: APGD(num_steps=4, loss="targeted_dlr", num_targets=2, **shared),
        lambda **shared: FAB(num_steps=5, num_targets=2, **shared),
        lambda **shared: Square(num_queries=40, **shared),
    )
    monkeypatch.setitem(autoattack._VERSIONS, "standard", parts)


@pytest.mark.slow
def test_an_image_keeps_the_result_of_the_first_part_that_fools(few_steps):
    model, images, labels = make(0.6, images=60)
    attack = AutoAttack(5, jit_compile=False)
    given = {"value_range": (0, 1), "seed": np.stack([np.full(60, 3), np.arange(60)], 1)}
    result = attack(model, images, labels, **given).numpy()
    expected, right, fooled = images.copy(), np.ones(60, bool), []
    for part in attack.members:
        adversarial = part(model, images, labels, **given).numpy()
        expected[right] = adversarial[right]
        wrong = model.logits(adversarial.astype(float)).argmax(1) != labels
        fooled.append(np.sum(right & wrong))
        right &= ~wrong
    np.testing.assert_array_equal(result, expected)
    assert fooled[0] and sum(fooled[1:]) and right.any(), fooled


def test_names_and_configuration():
    made = [attacks.make(f"autoattack{end}", {"epsilon": 8, "num_steps": 7, "restarts": 3})
            for end in ("", "_plus", "_rand")]  # fmt: skip
    assert [each.name for each in made] == ["AutoAttack", "AutoAttack-plus", "AutoAttack-rand"]
    for each in made:
        assert each.replace(epsilon=2).members[0].epsilon == 2 and each.epsilon == 8
        assert AutoAttack.from_config(each.get_config()).get_config() == each.get_config()
    with pytest.raises(ValueError, match="^version must be one of 'standard', 'plus', 'rand'"):
        AutoAttack(version="fast")
