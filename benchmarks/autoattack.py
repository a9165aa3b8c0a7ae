"""Speed of AutoAttack against the original and against ART's parts.

`python -m benchmarks.autoattack --original=FOLDER` needs a clone of fra31/auto-attack, which FOLDER
or the environment variable AUTO_ATTACK names, and Torch. All attack the same Keras network and
images, with a tenth of the standard numbers of steps and queries, so that a round is short: a step
costs the same. An attack's time ends when it knows which images are left right.
"""

import numpy as np

from benchmarks import ensembles, measuring, networks

PACKAGES = ("torch", "adversarial-robustness-toolbox")
ROUNDS = 3
NETWORK = networks.NETWORKS["small"]
EPSILON = 1.0  # pixels of 255; the network is trained on clean images
IMAGES, BATCH_SIZE = 64, 32
NUM_STEPS, NUM_QUERIES = 10, 500
WHOLE = "AutoAttack"
# Name of the case -> its parts. ART has no other parts of AutoAttack than the last three.
CASES = {
    WHOLE: ensembles.PARTS,
    "APGD-CE": ("APGD-CE",),
    "APGD-DLR": ("APGD-DLR",),
    "Square": ("Square",),
}
OURS, OURS_BFLOAT16, UNCOMPACTED = "tfadv", "tfadv bfloat16", "tfadv without compaction"
ORIGINAL, ART = "the original", "ART"
LEAST = 3.0  # times as fast, as is required


def contestants(case, task, original):
    """Dictionary, name -> contestant, as of `ensembles`.

    Args:
        case: Key of `CASES`.
        task: An `ensembles.Task`.
        original: The original's folder; None leaves it out.
    """
    run = {
        OURS: ensembles.ours(task, BATCH_SIZE),
        OURS_BFLOAT16: ensembles.ours(task, BATCH_SIZE, "bfloat16"),
    }
    if case == WHOLE:
        run[UNCOMPACTED] = ensembles.uncompacted(task, BATCH_SIZE)
    if original is not None:
        run[ORIGINAL] = ensembles.original(task, original, IMAGES)
    if case != WHOLE:
        run[ART] = ensembles.art(task, IMAGES)
    return run


def measure(case, model, images, labels, options):
    """Measures one case: seconds in every round, the ratios, and how many images are left right."""
    steps = (2, 10) if options.quick else (NUM_STEPS, NUM_QUERIES)
    task = ensembles.Task(model, EPSILON, *steps, CASES[case])
    right = {}

    def recorded(name, attack):
        def attack_all():
            right[name] = attack(images, labels)

        return attack_all

    runners = contestants(case, task, options.original)
    measuring.progress(f"{case}: {', '.join(runners)} warm up")
    for attack in runners.values():
        attack(images[:BATCH_SIZE], labels[:BATCH_SIZE])
    seconds = measuring.interleaved(
        {name: recorded(name, attack) for name, attack in runners.items()},
        measuring.rounds(options, ROUNDS),
        warm_up=0,  # done, on fewer images
        label=case,
    )
    left = {name: list(remaining.values())[-1] for name, remaining in right.items()}
    assert left.get(UNCOMPACTED, left[OURS]) == left[OURS], left
    others = [name for name in (ORIGINAL, ART, UNCOMPACTED) if name in seconds]
    return {
        "case": case,
        "seconds": seconds,
        "remaining": right,
        "left": left,
        "ratios": [
            {"of": of, "to": to, **measuring.ratio(seconds, of, to)}
            for of in others
            for to in ((OURS,) if of == UNCOMPACTED else (OURS, OURS_BFLOAT16))
        ],
    }


def arguments(parser):
    ensembles.add_option(parser)
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=list(CASES), help="Measure these alone."
    )


def run(options):
    if not options.quick and (options.original is None or options.cases != list(CASES)):
        raise SystemExit(
            "benchmarks.autoattack needs --original (see --help) and all cases; without them add "
            "--quick, which writes no file"
        )
    model = NETWORK.trained(steps=10 if options.quick else None)
    images, labels = (each.numpy() for each in NETWORK.digits(IMAGES)[0])
    clean = np.mean(model.predict(images, verbose=0).argmax(axis=-1) == labels)
    return {
        "settings": {
            "network": NETWORK.title,
            "images": IMAGES,
            "batch_size": BATCH_SIZE,
            "epsilon": EPSILON,
            "num_steps": NUM_STEPS,
            "num_queries": NUM_QUERIES,
            "clean_accuracy": float(clean),
        },
        "results": [measure(case, model, images, labels, options) for case in options.cases],
    }


def table(report):
    settings = report["settings"]
    count = settings["images"]
    fast = "amx_bf16" in report["machine"]["cpu_flags"] or report["machine"]["gpus"]
    ratios, times = [], []
    for result in report["results"]:
        for ratio in result["ratios"]:
            required, verdict = "", ""
            if ratio["of"] != UNCOMPACTED:
                required = f"at least {LEAST:g}"
                verdict = "yes" if ratio["median"] >= LEAST else "no"
                if ratio["to"] == OURS_BFLOAT16 and not fast:
                    verdict += "; no `amx_bf16` here"
            words = measuring.in_words(ratio)
            ratios.append([ratio["of"], ratio["to"], result["case"], required, words, verdict])
        for name, seconds in result["seconds"].items():
            each = measuring.spread([value / count for value in seconds])
            accuracy = f"{100 * result['left'][name] / count:.1f}%"
            times.append([result["case"], name, measuring.in_words(each, 3), accuracy])
    rounds = len(next(iter(report["results"][0]["seconds"].values())))
    return "\n".join(
        [
            measuring.markdown_table(
                [
                    *("time of", "over time of", "attack", "required"),
                    *("reached: median (min to max)", ""),
                ],
                ratios,
            ),
            f"{settings['network']}; {count} images, {100 * settings['clean_accuracy']:.1f}% of "
            f"them right without an attack; epsilon {settings['epsilon']:g}; "
            f"{settings['num_steps']} steps and {settings['num_queries']} queries; "
            f"{rounds} rounds:\n",
            measuring.markdown_table(
                ["attack", "by", "seconds an image: median (min to max)", "robust accuracy"], times
            ),
        ]
    )


if __name__ == "__main__":
    measuring.main("autoattack", run, table, packages=PACKAGES, arguments=arguments)
