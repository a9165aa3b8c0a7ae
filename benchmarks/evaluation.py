"""One pass over several numbers of attack steps beside separate runs.

`python -m benchmarks.evaluation`. PGD-20, 100 and 500 have one step size, so they lie on one
trajectory: 500 steps in place of 620, and the clean images are classified once, not three times.
PGD-10's step size is raised (Section 3), so that it runs alone in either way.
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
    given = (images.numpy(), labels.numpy())
    attack = attacks.PGD(step_size_rule="fixed") if options.quick else attacks.PGD()
    together = evaluation.Evaluator(model, attack, numbers)
    apart = [evaluation.Evaluator(model, attack, number) for number in numbers]
    found = {}

    def one_pass():
        found["one pass"] = together(given, IMAGES)[1:]

    def separate_runs():
        found["separate runs"] = [evaluator(given, IMAGES)[1] for evaluator in apart]

    seconds = measuring.interleaved(
        {"one pass": one_pass, "separate runs": separate_runs},
        measuring.rounds(options, ROUNDS),
        warm_up=1,
        label="evaluation",
    )
    counts = {
        name: [[result.correct, result.hits] for result in results]
        for name, results in found.items()
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
        "counted the same images as right and as hit.\n"
    )


if __name__ == "__main__":
    measuring.main("evaluation", run, table)
