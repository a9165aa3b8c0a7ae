"""Settings of all tests: a quiet TensorFlow, and a seed for Keras's random draws."""

import gc
import os
import signal
import sys

import pytest

# Must be set before the first test imports TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# A shell's background job without job control ignores Ctrl-C, and programs started here inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Traced graphs are many long-lived objects: searching them for garbage again and again took an
# eighth of the time of tests/models.
gc.set_threshold(100_000, 50, 100)

# Files whose tests start programs: each takes a minute or more.
LONG = (
    "test_programs.py",
    "test_adversarial_training_workers.py",
    "test_lockstep_workers.py",
    "test_own_attack.py",
)


def pytest_collection_modifyitems(items):
    # They run first, so that at the end of `make test` neither process waits long for the other.
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True)
def seeded():
    # Tests of command lines do not import TensorFlow, so this must not either.
    if "keras" in sys.modules:
        import keras

        keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def collected():
    yield
    # Some iterators of tf.data wait when they are freed: the older, the longer, up to a minute.
    gc.collect()
    gc.freeze()  # so that nothing is searched twice


@pytest.fixture(autouse=True)
def warnings_forgotten():
    # So that a warning given once per process is given once per test.
    if "tfadv.arguments" in sys.modules:
        sys.modules["tfadv.arguments"].forget_warnings()
