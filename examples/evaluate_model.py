"""Measures the robust accuracy of a Keras model from its file, and says what is doubtful about it.

    python examples/evaluate_model.py robust.keras
    python examples/evaluate_model.py robust.keras --quick    # of cifar10.py --quick

The model takes images of CIFAR-10 with pixels from 0 to 255. To evaluate another one, change the
images, their range and epsilon.
"""

import sys

import keras
from sklearn.datasets import load_digits

import tfadv

quick = "--quick" in sys.argv
path = sys.argv[1]

# Unlike keras.saving.load_model, this never runs code that a file holds or names.
model = tfadv.models.load(path)

if quick:
    digits = load_digits()
    test = (digits.images[:360, ..., None] * (255 / 16), digits.target[:360])
else:
    _, (images, labels) = keras.datasets.cifar10.load_data()
    test = (images[:1000], labels[:1000])

epsilon = 48 if quick else 8
attack = tfadv.attacks.PGD(epsilon, step_size=epsilon / 8, targeted=False)
evaluator = tfadv.evaluation.Evaluator(
    model,
    attack,
    num_steps=[10, 20] if quick else [10, 20, 100],
    domains=["adv", "clean"],  # the branches of mixture batch normalization, if there are any
    value_range=(0, 255),
)
results = evaluator(test, progress=tfadv.evaluation.progress_bar())
print(tfadv.evaluation.table(results))

# An attack that fails may be at fault itself.
doubts = tfadv.evaluation.doubts(evaluator, results, test)
for doubt in doubts:
    print(f"Doubt: {doubt}")
if not doubts:
    print("The evaluation raises no doubt.")
