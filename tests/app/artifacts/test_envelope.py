"""Conditions of an engine, held against machines."""

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from app.artifacts import machine
from app.artifacts.envelope import (
    RULES,
    all_of,
    any_of,
    at_least,
    at_most,
    conditions_of,
    equal,
    hold,
    none_of,
    same_minor,
    verdict,
)

MACHINE = {
    "system": "Linux",
    "architecture": "x86_64",
    "cpu_features": ["avx2", "avx512f", "avx512_vnni"],
    "processors": 8,
    "glibc": "2.36",
    "compute_capability": ["8.0", "9.0"],
    "package:onnxruntime": "1.32.1",
    "package:torch": "2.13.0+cpu",
}
CASES = [
    (equal("architecture", "x86_64", "no", ""), True),
    (equal("architecture", "aarch64", "no", ""), False),
    (equal("compute_capability", "9.0", "no", ""), True),
    (equal("compute_capability", "8.9", "no", ""), False),
    (at_least("package:onnxruntime", "1.32", "no", ""), True),
    (at_least("package:onnxruntime", "1.33", "no", ""), False),
    (at_least("package:onnxruntime", "1.4", "no", ""), True),
    (at_least("package:torch", "2.13", "no", ""), True),
    (at_least("glibc", "2.4", "no", ""), True),
    (at_least("glibc", "2.40", "no", ""), False),
    (at_least("processors", 8, "slow", ""), True),
    (at_least("processors", 9, "slow", ""), False),
    (at_least("compute_capability", "9.0", "no", ""), True),
    (at_least("compute_capability", "10.0", "no", ""), False),
    (at_most("package:onnxruntime", "1.32", "unproved", ""), True),
    (at_most("package:onnxruntime", "1.31", "unproved", ""), False),
    (same_minor("package:torch", "2.13.4", "no", ""), True),
    (same_minor("package:torch", "2.12.0", "no", ""), False),
    (any_of("cpu_features", ["avx_vnni", "avx512_vnni"], "slow", ""), True),
    (any_of("cpu_features", ["amx_int8"], "slow", ""), False),
    (all_of("cpu_features", ["avx2", "avx512f"], "no", ""), True),
    (all_of("cpu_features", ["avx2", "amx_int8"], "no", ""), False),
    (none_of("cpu_features", ["amx_int8"], "no", ""), True),
    (none_of("cpu_features", ["avx512f"], "no", ""), False),
]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [pytest.param(*case, id=f"{case[0].what}-{case[0].rule}-{case[0].wanted}") for case in CASES],
)
def test_a_rule(condition: Any, holds: bool) -> None:
    found = hold([condition], MACHINE)[0].verdict
    assert found == ("yes" if holds else condition.otherwise)


def test_every_rule_is_tried() -> None:
    assert {condition.rule for condition, _ in CASES} == set(RULES)


def test_the_worst_decides() -> None:
    slow = at_least("processors", 64, "slow", "")
    unproved = at_most("package:torch", "2.12", "unproved", "")
    no = equal("system", "Darwin", "no", "")
    assert verdict(hold([], MACHINE)) == "yes"
    assert verdict(hold([slow], MACHINE)) == "slow"
    assert verdict(hold([slow, unproved], MACHINE)) == "unproved"
    assert verdict(hold([slow, no, unproved], MACHINE)) == "no"


def test_what_a_machine_does_not_tell_is_neither_yes_nor_no() -> None:
    held = hold([equal("glibc", "2.36", "no", "linked"), at_least("processors", 2, "slow", "")], {})
    assert [each.verdict for each in held] == ["unproved", "slow"]
    assert "does not tell" in held[0].text


def test_a_package_that_is_not_there_is_no_where_all_packages_are_known() -> None:
    condition = at_least("package:openvino", "2026.4", "no", "older versions do not read it")
    assert hold([condition], MACHINE)[0].verdict == "unproved"
    held = hold([condition], {**MACHINE, "packages_complete": True})[0]
    assert held.verdict == "no"
    assert "none installed" in held.text


def test_conditions_go_through_a_manifest() -> None:
    conditions = [condition for condition, _ in CASES]
    stored = json.loads(json.dumps({"conditions": [condition.as_json() for condition in conditions]}))
    assert conditions_of(stored) == conditions


def test_manifests_of_before_are_read() -> None:
    old = {
        "runtime": "onnxruntime",
        "version": "1.31.0",
        "architecture": "x86_64",
        "cpu_features": ["avx2"],
        "compute_capability": "9.0",
    }
    held = {each.condition.what: each.verdict for each in hold(conditions_of(old), MACHINE)}
    assert held == {
        "architecture": "yes",
        "cpu_features": "yes",
        "compute_capability": "yes",
        "package:onnxruntime": "unproved",
    }
    assert conditions_of({}) == []


GOOD = {"what": "system", "rule": "equal", "wanted": "Linux", "otherwise": "no", "why": ""}


@pytest.mark.parametrize(
    "conditions",
    [
        "all of them",
        ["one"],
        [{**GOOD, "rule": "like"}],
        [{**GOOD, "otherwise": "perhaps"}],
        [{**GOOD, "wanted": {"a": 1}}],
        [{**GOOD, "wanted": ["Linux"]}],
        [{**GOOD, "rule": "any_of"}],
        [{**GOOD, "rule": "any_of", "wanted": [1]}],
        [{**GOOD, "more": 1}],
        [{key: value for key, value in GOOD.items() if key != "why"}],
        [{**GOOD, "what": 3}],
    ],
    ids=lambda value: str(value)[:60],
)
def test_conditions_that_cannot_be_read_are_refused(conditions: Any) -> None:
    with pytest.raises(ValueError, match=r"condition|list|text"):
        conditions_of({"conditions": conditions})


def test_this_machine_tells_what_is_asked() -> None:
    facts = machine.this_machine([at_least("package:onnxruntime", "1", "no", ""), GPU])
    assert facts["architecture"] == platform.machine()
    assert facts["processors"] >= 1
    assert facts["package:onnxruntime"]
    assert isinstance(facts["compute_capability"], list)
    assert "package:openvino" not in facts


def test_the_processor_is_read(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("processor : 0\nmodel name : A Chip\nflags : sse avx2 fma\n\nprocessor : 1\n")
    assert machine.cpu_facts(told) == {"cpu": "A Chip", "cpu_features": ["avx2", "fma", "sse"]}
    assert machine.cpu_facts(tmp_path / "none") == {}


GPU = equal("compute_capability", "9.0", "no", "its kernels were compiled for this GPU")


def test_a_workers_machine() -> None:
    hardware = {
        "system": "Linux",
        "architecture": "x86_64",
        "cpu": "A Chip",
        "cpu_features": ["avx2"],
        "cores": 4,
        "glibc": "2.36",
        "gpus": [{"name": "H100", "driver": "570.1", "compute_capability": "9.0"}],
    }
    facts = machine.of_worker(hardware, {"onnxruntime-cuda": {"versions": {"onnxruntime-gpu": "1.31.0"}}})
    assert facts["package:onnxruntime"] == "1.31.0"
    assert facts["processors"] == 4
    assert verdict(hold([GPU], facts)) == "yes"
    assert verdict(hold([GPU], machine.of_worker({**hardware, "gpus": []}, {}))) == "no"
    assert verdict(hold([GPU], machine.of_worker({}, {}))) == "unproved"


def test_of_a_processors_many_features_those_that_count_are_shown() -> None:
    flags = [f"flag{number}" for number in range(100)]
    wanted = all_of("cpu_features", ["flag1", "flag2"], "no", "it was made for them")
    (there,) = hold([wanted], {"cpu_features": flags})
    assert there.text == "all of flag1, flag2"
    (lacking,) = hold([wanted], {"cpu_features": [flag for flag in flags if flag != "flag2"]})
    assert lacking.text == "wanted all of flag1, flag2, here is no flag2: it was made for them"
    either = any_of("cpu_features", ["flag1", "other"], "slow", "8 bits are slow without")
    (one,) = hold([either], {"cpu_features": flags})
    assert one.text == "flag1 (one of flag1, other)"
    (none,) = hold([either], {"cpu_features": flags[2:]})
    assert none.text == "wanted one of flag1, other, here is none: 8 bits are slow without"
