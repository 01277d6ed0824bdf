"""The bundle's text, and numbers in words: what was done, what it brought, and how far to trust it."""

from typing import Any


def readme(manifest: dict[str, Any]) -> str:
    """The bundle's `README.md`."""
    name = manifest["model"]["name"]
    return "\n".join(
        [
            f"# {name}, optimized for {manifest['target']['runtime']}",
            "",
            result_table(manifest["result"]),
            "",
            *notes(manifest["result"]),
            "## Run it",
            "",
            "```",
            *(f"pip install {package}=={version}" for package, version in manifest["requires"].items()),
            "python run.py",
            "```",
            "",
            "`run.py` loads the engine, runs it on the inputs in `samples.npz` and checks the outputs against what",
            "`manifest.json` promises. Its `load()` is a start for your own code.",
            "",
            *companion_lines(manifest["companions"]),
            "| input | dtype | shape |",
            "| --- | --- | --- |",
            *(signature_row(entry) for entry in manifest["signature"]["inputs"]),
            "",
            "| output | dtype | shape |",
            "| --- | --- | --- |",
            *(signature_row(entry) for entry in manifest["signature"]["outputs"]),
            "",
            "## How it was made",
            "",
            *recipe_lines(manifest),
            "",
            "## Where it is valid",
            "",
            *validity_lines(manifest["validity"]),
            "",
            "`burnish check .` holds this against a machine.",
            "",
            "## Licences",
            "",
            *licence_lines(manifest["licences"]),
            "",
        ]
    )


def validity_lines(validity: dict[str, Any]) -> list[str]:
    """Where the engine is valid: what it was made with, then what it needs and why."""
    made = [f"- {key}: {shown(value)}" for key, value in validity.items() if key != "conditions"]
    needs = {"no": "needs", "slow": "is slower without", "unproved": "was only tried with"}
    rules = {
        "equal": "",
        "at_least": " at least",
        "at_most": " at most",
        "same_minor": " the same minor version as",
    }
    rules |= {"any_of": " one of", "all_of": " all of", "none_of": " none of"}
    return made + [
        f"- {needs[one['otherwise']]} {one['what']}:{rules[one['rule']]} {shown(one['wanted'])} ({one['why']})"
        for one in validity.get("conditions", [])
    ]


def licence_lines(licences: dict[str, Any]) -> list[str]:
    """The model's licence as far as it is known, and those of the packages that run the engine."""
    model = licences["model"]
    files = f" (see {', '.join(f'`{path}`' for path in model['files'])})" if model["files"] else ""
    unsaid = "in the files that were uploaded with it" if files else "not said at its upload"
    return [
        f"- the model: {model['licence'] or unsaid}{files}",
        *(
            f"- {one['package']} {one['version']}, which is not part of this bundle: {one['licence'] or 'see there'}"
            for one in licences["packages"]
        ),
    ]


def companion_lines(companions: list[str]) -> list[str]:
    """What was uploaded beside the model and lies beside the engine."""
    if not companions:
        return []
    listed = ", ".join(f"`{path}`" for path in companions)
    return [f"What makes the inputs, as it was uploaded with the model: {listed}.", ""]


def result_table(result: dict[str, Any]) -> str:
    """Before and after, side by side, in Markdown."""
    sides = [result["baseline"], result["optimized"]]
    names = ["original", "optimized"]
    if result["reference"]:
        sides.insert(0, result["reference"])
        names.insert(0, "source framework")
    rows = [("size", [bytes_text(side["size_bytes"]) for side in sides])]
    if all(side["latency"] for side in sides):
        rows += [
            *(
                (f"latency {name[:-3]}", [ms_text(side["latency"][name]) for side in sides])
                for name in ("p50_ms", "p90_ms", "p99_ms")
                if all(side["latency"][name] is not None for side in sides)
            ),
            ("throughput", [throughput_text(side) for side in sides]),
            ("peak memory", [bytes_text(side["peak_memory_bytes"]) for side in sides]),
            ("load time", [ms_text(side["load_ms"]) for side in sides]),
        ]
    if accuracy := result["baseline"]["accuracy"]:
        cells = [interval_text(side["accuracy"]) if side["accuracy"] else "" for side in sides]
        rows.append((accuracy["metric"], cells))
    lines = [f"| | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    return "\n".join(lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows])


def throughput_text(side: dict[str, Any]) -> str:
    """Samples a second, and how many runs were under way for that where it was more than one."""
    value, concurrency = side["throughput_per_s"], side.get("concurrency", 1)
    text = f"{value:.1f} /s" if value < 1000 else f"{value:,.0f} /s"
    return text if concurrency == 1 else f"{text} ({concurrency} at once)"


def notes(result: dict[str, Any]) -> list[str]:
    """Speed-up, accuracy drop, fidelity, why, warnings: one line each."""
    comparison = result["comparison"]
    lines = []
    if result["verification"] != "verified":
        lines.append(f"- unverified: {result['unverified_reason']}")
    if speedup := comparison["speedup"]:
        lines.append(f"- speed-up: {interval_text(speedup)} ({speedup['verdict'].replace('_', ' ')})")
    if over := comparison["speedup_over_reference"]:
        lines.append(
            f"- speed-up over the source framework: {interval_text(over)} ({over['verdict'].replace('_', ' ')})"
        )
    if comparison["accuracy_drop"]:
        lines.append(f"- accuracy drop: {interval_text(comparison['accuracy_drop'])}")
    if comparison["within_budget"] is not None:
        answer = {True: "yes", False: "no"}.get(comparison["within_budget"], comparison["within_budget"])
        lines.append(f"- within the accuracy budget: {answer}")
    for name, fidelity in comparison["fidelity"]["outputs"].items():
        lines.append(f"- fidelity of `{name}`: " + fidelity_text(fidelity))
    for name, fidelity in ((comparison.get("model_fidelity") or {}).get("outputs", {})).items():
        lines.append(f"- fidelity of `{name}` of the model, not of the engine: " + fidelity_text(fidelity))
    lines += [f"- why: {text}" for text in comparison["why"]]
    lines += [f"- warning: {text}" for text in result["warnings"]]
    return [*lines, ""]


def recipe_lines(manifest: dict[str, Any]) -> list[str]:
    """The recipe, a numbered line a pass."""
    passes = manifest["recipe"]["passes"]
    lines = [
        f"{number}. `{step['pass']}` version {step['version']}: `{shown(step['params'])}`"
        for number, step in enumerate(passes, 1)
    ]
    return lines or ["No pass: the engine was built from the model as it was uploaded."]


def signature_row(entry: dict[str, Any]) -> str:
    """One row of a signature table."""
    shape = ", ".join("?" if dim is None else str(dim) for dim in entry["shape"])
    return f"| `{entry['name']}` | {entry['dtype']} | [{shape}] |"


def fidelity_text(fidelity: dict[str, Any]) -> str:
    """One output's agreement with the original."""
    parts = {
        "cosine": fidelity.get("cosine"),
        "SQNR in dB": fidelity.get("sqnr_db"),
        "largest difference": fidelity.get("max_abs"),
        "top-1 agreement": fidelity.get("top1_agreement"),
    }
    return ", ".join(f"{name} {value:.4g}" for name, value in parts.items() if value is not None)


def interval_text(value: dict[str, Any]) -> str:
    """A value with its 95% interval."""
    return f"{value['value']:.4g} [{value['low']:.4g}, {value['high']:.4g}]"


def ms_text(value: float) -> str:
    """Milliseconds, three significant digits."""
    return f"{value:.3g} ms" if value < 1000 else f"{value:,.0f} ms"


def bytes_text(value: float) -> str:
    """Bytes, in the largest unit that keeps a digit before the point."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} GiB"


def shown(value: Any) -> str:
    """A value of a manifest on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value)
    return str(value)
