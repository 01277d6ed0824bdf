"""Every figure that the README quotes, each a Markdown table on standard output.

python -m benchmarks                  all of them
python -m benchmarks presets overhead   some of them
"""

import importlib
import sys

BENCHMARKS = {
    "presets": "the presets on real networks, each through a service of its own",
    "runtimes": "the presets beside eager PyTorch, torch.compile and ONNX Runtime",
    "training": "what training inside a recipe brings, on labelled data",
    "surgery": "what removing channels and branches, cheaper layers and zeros bring, on labelled data",
    "overhead": "a job beside the same library calls made directly in one script",
    "many_jobs": "a thousand tiny jobs through two workers",
    "large": "a model of more than 2 GB through every pass that takes one, and the memory that it takes",
    "transfer": "uploads and downloads of 2 GiB beside bare handlers, and the memory that they take",
    "waiting": "500 long polls and 500 event streams held by one process",
    "scale": "what operations cost the database and the API, and a thousand workers simulated on that",
    "requests": "the requests per second of the API, beside a bare route, and in short and long tables",
}


def main(names: list[str]) -> int:
    """Run benchmarks by name, all where none is given; 1 where one failed, 2 where there is none of a name."""
    if unknown := set(names) - BENCHMARKS.keys():
        print(
            f"no benchmark is called {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}",
            file=sys.stderr,
        )
        return 2
    failed = 0
    for name in names or BENCHMARKS:
        print(f"\n## {name}: {BENCHMARKS[name]}\n", flush=True)
        failed += importlib.import_module(f"benchmarks.{name}").main() != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
