"""Fuzz a target for long, guided by coverage if atheris (extra `fuzz`) is installed.

A finding ends the run and is written to the folder of findings.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path

FOUND = Path("fuzz-findings")


def main() -> int:
    """Run as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", required=True, help="its name, or `list`")
    parser.add_argument("--runs", type=int, default=100_000, help="how many inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("auto", "atheris", "mutator"), default="auto")
    parser.add_argument("--input", type=Path, help="run this one input, such as a finding")
    options = parser.parse_args()
    engine = options.engine
    if engine == "auto":
        engine = "atheris" if importlib.util.find_spec("atheris") else "mutator"
    if options.target == "list":
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - see _with_atheris

        print("\n".join(TARGETS))
        return 0
    if options.input is not None:
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415

        TARGETS[options.target].run(options.input.read_bytes())
        return 0
    if engine == "atheris":
        _with_atheris(options.target, options.runs, options.seed)
    return _with_mutator(options.target, options.runs, options.seed)


def _with_atheris(name: str, runs: int, seed: int) -> None:
    """Hand over to libFuzzer, which ends the process. Only what is imported here is guided."""
    import atheris  # noqa: PLC0415 - an optional dependency

    with atheris.instrument_imports(include=["daisi_ws"], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415

    target = TARGETS[name]
    corpus = FOUND / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in target.seeds:
        (corpus / sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    words = FOUND / f"{name}.dict"
    words.write_text("".join(f'"{_quoted(word)}"\n' for word in (*target.words, b"\0")))
    arguments = [
        sys.argv[0],
        f"-runs={runs}",
        f"-seed={seed}",
        "-max_len=4096",
        "-timeout=10",
        f"-artifact_prefix={FOUND}/{name}-",
        f"-dict={words}",
        "-print_final_stats=1",
        "-verbosity=1",
        str(corpus),
    ]

    def once(data: bytes) -> None:
        target.run(data)

    atheris.Setup(arguments, once)
    atheris.Fuzz()


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _with_mutator(name: str, runs: int, seed: int) -> int:
    from tests.fuzz.mutate import Mutator  # noqa: PLC0415
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415

    target = TARGETS[name]
    began, count = time.monotonic(), 0
    for data in Mutator(target.seeds, target.words, f"{name} {seed}").inputs(runs):
        count += 1
        if not _survives(target.run, name, data):
            return 1
    print(f"{name}: {count} inputs in {time.monotonic() - began:.0f} s, nothing found")
    return 0


def _survives(run: Callable[[bytes], bool], name: str, data: bytes) -> bool:
    try:
        run(data)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        FOUND.mkdir(exist_ok=True)
        path = FOUND / f"{name}-{sha1(data, usedforsecurity=False).hexdigest()[:12]}"
        path.write_bytes(data)
        print(f"{name}: {error!r}\n  input {data[:300]!r}\n  kept in {path}")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
