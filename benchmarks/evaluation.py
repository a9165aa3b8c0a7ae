"""Evaluation of several numbers of steps in one pass, compared with separate runs.

`python -m benchmarks.evaluation`. PGD-20, 100 and 500 have the same step size, so they lie on one
trajectory: one pass takes 500 steps instead of 620, and classifies the clean images once, not three
times. PGD-10 has a larger step size (Section 3), so it runs alone either way.
"""

from benchmarks import measuring, networks
from tfadv import attacks, evaluation, models

ROUNDS = 5
IMAGES = 32
NUMBERS = (20, 100, 500)
NETWORK = networks.Network(
    "8-layer ResNet of width 8 at 32 pixels",
    lambda size: models.SmallResNet(8, width=8, image_size=size, seed=0),
    32,
    32,
)


def run(options):
    model = NETWORK.trained(steps=10 if options.quick else None)
    numbers = (2, 10, 50) if options.quick else NUMBERS
    [(images, labels), *_] = NETWORK.digits(IMAGES)
    data = (images.numpy(), labels.numpy())
    attack = attacks.PGD(step_size_rule="fixed") if options.quick else attacks.PGD()
    together = evaluation.Evaluator(model, attack, numbers)
    apart = [evaluation.Evaluator(model, attack, number) for number in numbers]
    results = {}

    def one_pass():
        results["one pass"] = together(data, IMAGES)[1:]

    def separate_runs():
        results["separate runs"] = [evaluator(data, IMAGES)[1] for evaluator in apart]

    seconds = measuring.interleaved(
        {"one pass": one_pass, "separate runs": separate_runs},
        measuring.rounds(options, ROUNDS),
        warm_up=1,
        label="evaluation",
    )
    counts = {
        name: [[result.correct, result.hits] for result in each] for name, each in results.items()
    }
    assert counts["one pass"] == counts["separate runs"], counts
    return {
        "settings": {"network": NETWORK.title, "images": IMAGES, "num_steps": numbers},
        "results": [
            {
                "seconds": seconds,
                "ratio": measuring.ratio(seconds, "one pass", "separate runs"),
                "correct_and_hits": counts["one pass"],
            }
        ],
    }


def table(report):
    [result] = report["results"]
    times = (f"{measuring.spread(each)['median']:.1f}" for each in result["seconds"].values())
    numbers = ", ".join(map(str, report["settings"]["num_steps"]))
    heading = ["evaluation", "required", "ratio of times", "seconds", "seconds of separate runs"]
    row = [
        f"PGD-{numbers} in one pass",
        "at most 0.83",
        measuring.in_words(result["ratio"]),
        *times,
    ]
    return (
        measuring.markdown_table(heading, [row])
        + f"\n{report['settings']['network']}, {report['settings']['images']} images; both ways "
        "found the same numbers of correct images and of hits.\n"
    )


if __name__ == "__main__":
    measuring.main("evaluation", run, table)
