"""What every test starts from: a quiet TensorFlow and Keras's own random draws seeded."""

import os
import sys

import pytest

# Before the first test imports TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(autouse=True)
def seeded():
    # Tests of command lines import no TensorFlow, and this does not either.
    if "keras" in sys.modules:
        import keras

        keras.utils.set_random_seed(0)
