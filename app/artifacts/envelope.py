"""Where an engine is valid: conditions on facts of a machine, and how they are held. Pure: no machine is looked at here.

A manifest's `validity.conditions` is a list of {what, rule, wanted, otherwise, why}:

| field | what it is |
| --- | --- |
| what | a fact's name: `system`, `architecture`, `cpu`, `cpu_features`, `processors`, `glibc`, `compute_capability`, `gpu`, `driver`, `accelerators` (`intel-gpu`, `intel-npu`, `tpu`), `package:NAME` |
| rule | how the fact is held against `wanted`, see `RULES` |
| wanted | text, a number, or a list of texts |
| otherwise | what follows where the rule does not hold: `no` it cannot run, `slow` it runs slower, `unproved` only a run can tell |
| why | a sentence for people |

Manifests of before have no conditions: those that follow from their other fields are used (`conditions_of`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Effect = Literal["no", "slow", "unproved"]
Verdict = Literal["yes", "slow", "unproved", "no"]
Wanted = str | int | list[str]
Facts = Mapping[
    str, Any
]  # of a machine: name -> text, number or list of texts; what is not known is left out

_WORST_FIRST: tuple[Verdict, ...] = ("no", "unproved", "slow", "yes")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Condition:
    """One thing that an engine needs of a machine."""

    what: str
    rule: str
    wanted: Wanted
    otherwise: Effect
    why: str

    def as_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {
            "what": self.what,
            "rule": self.rule,
            "wanted": self.wanted,
            "otherwise": self.otherwise,
            "why": self.why,
        }


@dataclass(frozen=True)
class Held:
    """A condition held against a machine. `found` None: the machine does not tell the fact."""

    condition: Condition
    verdict: Verdict
    found: Any

    @property
    def text(self) -> str:
        """What was wanted and found, and where they differ what that means."""
        wanted = f"{_RULE_TEXTS[self.condition.rule]} {_shown(self.condition.wanted)}".strip()
        if self.condition.rule == "all_of" and self.found is not None:  # a processor's flags fill a screen
            missing = sorted(set(_several(self.condition.wanted)) - set(_several(self.found)))
            if not missing:
                return wanted
            return f"wanted {wanted}, here is no {_shown(missing)}: {self.condition.why}"
        if self.condition.rule == "any_of" and len(_several(self.found)) > MOST_SHOWN:
            common = [one for one in _several(self.condition.wanted) if one in _several(self.found)]
            return (
                f"{_shown(common)} ({wanted})"
                if common
                else f"wanted {wanted}, here is none: {self.condition.why}"
            )
        if self.verdict == "yes":
            return (
                f"{_shown(self.found)} ({wanted})" if self.condition.rule != "equal" else _shown(self.found)
            )
        found = "this machine does not tell" if self.found is None else f"here is {_shown(self.found)}"
        return f"wanted {wanted}, {found}: {self.condition.why}"


def equal(what: str, wanted: Wanted, otherwise: Effect, why: str) -> Condition:
    """The fact is `wanted`; where a machine has several of its kind (GPUs), one of them is."""
    return Condition(what, "equal", wanted, otherwise, why)


def at_least(what: str, wanted: str | int, otherwise: Effect, why: str) -> Condition:
    """The fact is a version or number that is not less."""
    return Condition(what, "at_least", wanted, otherwise, why)


def at_most(what: str, wanted: str | int, otherwise: Effect, why: str) -> Condition:
    """The fact is a version or number that is not more; `1.32` includes `1.32.5`."""
    return Condition(what, "at_most", wanted, otherwise, why)


def same_minor(what: str, wanted: str, otherwise: Effect, why: str) -> Condition:
    """The fact is a version with the same first two numbers."""
    return Condition(what, "same_minor", wanted, otherwise, why)


def any_of(what: str, wanted: Sequence[str], otherwise: Effect, why: str) -> Condition:
    """The fact is one of these, or has one of them."""
    return Condition(what, "any_of", list(wanted), otherwise, why)


def all_of(what: str, wanted: Sequence[str], otherwise: Effect, why: str) -> Condition:
    """The fact has all of these."""
    return Condition(what, "all_of", list(wanted), otherwise, why)


def none_of(what: str, wanted: Sequence[str], otherwise: Effect, why: str) -> Condition:
    """The fact has none of these."""
    return Condition(what, "none_of", list(wanted), otherwise, why)


def hold(conditions: Sequence[Condition], facts: Facts) -> list[Held]:
    """Every condition against a machine; one whose fact is not known is `unproved`, or `slow` where that is the worst."""
    return [_hold(condition, facts) for condition in conditions]


def verdict(held: Sequence[Held]) -> Verdict:
    """What follows from all conditions together: the worst of them, `yes` where there are none."""
    found = {each.verdict for each in held}
    return next((one for one in _WORST_FIRST if one in found), "yes")


def conditions_of(validity: Mapping[str, Any]) -> list[Condition]:
    """The conditions of a manifest's `validity`, old manifests' too.

    Raises:
        ValueError: they cannot be read: a field or a rule is not known.
    """
    if "conditions" not in validity:
        return _old(validity)
    entries = validity["conditions"]
    if not isinstance(entries, list):
        raise ValueError("`conditions` is no list")
    return [_read(entry) for entry in entries]


def _read(entry: Any) -> Condition:
    if not isinstance(entry, dict) or set(entry) != {"what", "rule", "wanted", "otherwise", "why"}:
        raise ValueError(f"a condition has the fields what, rule, wanted, otherwise and why, not {entry!r}")
    wanted = entry["wanted"]
    texts = isinstance(wanted, list) and all(isinstance(one, str) for one in wanted)
    several = entry["rule"] in ("any_of", "all_of", "none_of")
    fits = texts if several else isinstance(wanted, str | int)
    if entry["rule"] not in RULES or entry["otherwise"] not in ("no", "slow", "unproved") or not fits:
        raise ValueError(f"a condition on {entry['what']!r} is of a kind that this version does not know")
    if not isinstance(entry["what"], str) or not isinstance(entry["why"], str):
        raise ValueError("a condition's `what` and `why` are texts")
    return Condition(**entry)


def _old(validity: Mapping[str, Any]) -> list[Condition]:
    """The conditions that manifests without any meant."""
    found = []
    if (architecture := validity.get("architecture")) is not None:
        found.append(equal("architecture", architecture, "no", "the engine was made for it"))
    if wanted := validity.get("cpu_features"):
        found.append(all_of("cpu_features", wanted, "no", "the engine was made for a processor with them"))
    if (capability := validity.get("compute_capability")) is not None:
        found.append(equal("compute_capability", capability, "no", "its kernels were compiled for this GPU"))
    if (package := validity.get("runtime")) is not None and validity.get("version"):
        why = "the engine was built and checked with this version"
        found.append(equal(f"package:{package}", validity["version"], "unproved", why))
    return found


def _hold(condition: Condition, facts: Facts) -> Held:
    found = facts.get(condition.what)
    if found is None and condition.what.startswith("package:") and facts.get("packages_complete"):
        return Held(condition, "no", "none installed")
    if found is None:
        return Held(condition, "slow" if condition.otherwise == "slow" else "unproved", None)
    holds = RULES[condition.rule](found, condition.wanted)
    return Held(condition, "yes" if holds else condition.otherwise, found)


def _several(found: Any) -> list[str]:
    return [str(one) for one in found] if isinstance(found, list) else [str(found)]


def _version(value: Any) -> tuple[int, ...]:
    """The numbers of a version's release: `2.13.0+cpu` is (2, 13, 0)."""
    release = re.split(r"[+\-]|[a-z]", str(value).strip().removeprefix("v"), maxsplit=1)[0]
    return tuple(int(number) for number in _NUMBER.findall(release))


def _compared(found: Any, wanted: Any, length: int | None = None) -> int:
    left, right = _version(found)[:length], _version(wanted)[:length]
    width = max(len(left), len(right))
    left, right = left + (0,) * (width - len(left)), right + (0,) * (width - len(right))
    return (left > right) - (left < right)


RULES: Mapping[str, Callable[[Any, Any], bool]] = {
    "equal": lambda found, wanted: str(wanted) in _several(found),
    "at_least": lambda found, wanted: any(_compared(one, wanted) >= 0 for one in _several(found)),
    "at_most": lambda found, wanted: any(
        _compared(one, wanted, len(_version(wanted))) <= 0 for one in _several(found)
    ),
    "same_minor": lambda found, wanted: any(_compared(one, wanted, 2) == 0 for one in _several(found)),
    "any_of": lambda found, wanted: not set(wanted).isdisjoint(_several(found)),
    "all_of": lambda found, wanted: set(wanted) <= set(_several(found)),
    "none_of": lambda found, wanted: set(wanted).isdisjoint(_several(found)),
}
MOST_SHOWN = 8  # things of a machine in one line: it has one or two GPUs, and a hundred flags
_RULE_TEXTS = {
    "equal": "",
    "at_least": "at least",
    "at_most": "at most",
    "same_minor": "the same minor version as",
    "any_of": "one of",
    "all_of": "all of",
    "none_of": "none of",
}


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
