import pytest

from tfadv import steps


@pytest.mark.parametrize(
    ("num_train", "batch_size", "expected"),
    [
        (1281167, 4096, 313),  # 312.8
        (1281167, 512, 2502),  # 2502.3
        (10, 4, 3),  # 2.5, up
        (14, 4, 4),  # 3.5, up
        (3, 100, 1),
    ],
)
def test_steps_per_epoch_is_rounded(num_train, batch_size, expected):
    assert steps.steps_per_epoch(num_train, batch_size) == expected


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "size", "expected"),
    [(50000, 32, 128, 13), (10, 5, 2, 1), (11, 5, 2, 2), (1, 8, 4, 1)],
)
def test_validation_steps_cover_the_worker_with_most(num_examples, batch_size, size, expected):
    assert steps.validation_steps(num_examples, batch_size, size) == expected


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="^batch_size must be at least 1; received 0$"):
        steps.steps_per_epoch(10, 0)
    with pytest.raises(ValueError, match="^size must be at least 1; received 0$"):
        steps.validation_steps(10, 1, 0)
