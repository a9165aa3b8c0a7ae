"""What every test starts from: a quiet TensorFlow and Keras's own random draws seeded."""

import gc
import os
import sys

import pytest

# Before the first test imports TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Traced graphs are many objects that live long: looking through them again and again for garbage
# took an eighth of the time of tests/models.
gc.set_threshold(100_000, 50, 100)

# Files whose tests start programs: each takes a minute and more.
LONG = (
    "test_programs.py",
    "test_adversarial_training_workers.py",
    "test_lockstep_workers.py",
    "test_own_attack.py",
)


def pytest_collection_modifyitems(items):
    # First, so that at the end of `make test` neither of its processes waits for the other.
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True)
def seeded():
    # Tests of command lines import no TensorFlow, and this does not either.
    if "keras" in sys.modules:
        import keras

        keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def warned_of_nothing():
    # A warning that comes once in a process comes once in a test.
    if "tfadv.arguments" in sys.modules:
        sys.modules["tfadv.arguments"].forget_warnings()
