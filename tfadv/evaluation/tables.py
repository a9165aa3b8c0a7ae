import math


def table(results):
    """Sets results out as text: a row for each number of steps, columns for each branch.

    Accuracies in percent with their 95% Wilson intervals, attack success in percent, and below
    them the protocol that they belong to.

    Args:
        results: List of `Result`, of one evaluation.

    Returns:
        String of several lines.

    Raises:
        ValueError: If there are no results, or two for one cell, or they differ in protocol.
    """
    cells = {(result.num_steps, result.domain): result for result in results}
    if not cells or len(cells) < len(results):
        raise ValueError(
            "results must be at least one, and one for each branch and number of steps; "
            f"received {len(results)} for {len(cells)} of these"
        )
    domains = list(dict.fromkeys(result.domain for result in results))
    numbers = sorted({result.num_steps for result in results}, key=_place)
    names = {result.num_steps: result.name for result in results}
    margin = max(map(len, names.values())) + 2
    lines = []
    if domains != [None]:
        heads = (f"{domain} branch" if domain else "no branches" for domain in domains)
        lines.append(" " * margin + "  ".join(f"{head:<{_WIDTH}}" for head in heads))
    head = f"{'accuracy [95%]':<20}  success"
    lines.append(" " * margin + "  ".join([head] * len(domains)))
    for number in numbers:
        row = "  ".join(_cell(cells.get((number, domain))) for domain in domains)
        lines.append(f"{names[number]:<{margin}}{row}")
    return "\n".join([line.rstrip() for line in lines] + ["", _protocol(results)])


def _place(number):
    return math.inf if number is None else number


_WIDTH = 20 + 2 + 7


def _cell(result):
    if result is None:
        return " " * _WIDTH
    low, high = (f"{100 * share:.1f}" for share in result.interval)
    accuracy = f"{100 * result.accuracy:5.1f} [{low}, {high}]"
    success = "" if result.success is None else f"{100 * result.success:.1f}"
    return f"{accuracy:<20}  {success:>7}"


def _protocol(results):
    def the(name, among):
        values = {getattr(result, name) for result in among}
        if len(values) > 1:
            raise ValueError(
                f"results must have one protocol; received {name} of {sorted(values, key=str)}"
            )
        return values.pop()

    counted = f"{the('total', results)} images, seed {the('seed', results)}"
    attacked = [result for result in results if not result.is_clean]
    if not attacked:
        return f"percent; no attack, {counted}"
    sizes = {}
    for result in attacked:
        if result.step_size is not None:
            sizes.setdefault(f"{result.step_size:g}", {})[str(result.num_steps)] = None
    label = the("attack", attacked) or "PGD"
    rule = {
        "pipeline": ", raised to epsilon/steps where larger",
        "fixed": ", fixed",
        None: "",
    }[the("step_size_rule", attacked)]
    precision, loss = the("precision", attacked), the("loss", attacked)
    parts = [
        f"percent; {'targeted' if the('targeted', attacked) else 'untargeted'} {label} in "
        f"L-infinity: epsilon {the('epsilon', attacked):g} of 255"
    ]
    if len(sizes) == 1:
        parts.append(f"step size {next(iter(sizes))}{rule}")
    elif sizes:
        listed = ", ".join(f"{size} ({label}-{', '.join(n)})" for size, n in sizes.items())
        parts.append(f"step size {listed}{rule}")
    chance = the("start_from_clean", attacked)
    if chance is not None:
        start = {0: "random in the ball", 1: "the image"}.get(
            chance, f"random in the ball, the image with probability {chance:g}"
        )
        if chance < 1 and the("clip_start", attacked):
            start = start.replace("in the ball", "in the ball and clipped to the range")
        parts.append(f"start {start}")
    parts.append(f"restarts {the('restarts', attacked)}")
    if loss is not None:
        parts.append(f"loss {loss}")
    if precision not in (None, "float32"):
        parts.append(f"attacked in {precision}")
    return "; ".join([*parts, counted])
