"""Whether the new system is as well as the old one was."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed.updates.judgement import Finding, Findings, Terms, Trial, Verdict, healthy, judge, reason
from homed.updates.records import Complaint

TERMS = Terms(until=100, soak=10)
WELL, ILL = Finding(), Finding("is down")


class Judged(NamedTuple):
    verdict: Verdict
    at: float
    trial: Trial


def judged(required: Sequence[str], looks: Mapping[float, Findings], terms: Terms = TERMS) -> Judged:
    """Look once a second from the moment of the first look on; between two looks nothing changes."""
    trial, found, at = Trial(), looks[min(looks)], min(looks)
    end = max(at, terms.until) + terms.soak + 1
    while at <= end:
        found = looks.get(at, found)
        verdict, trial = judge(required, found, trial, terms, at)
        if verdict is not Verdict.WAIT:
            return Judged(verdict, at, trial)
        at += 1
    raise AssertionError(f"no verdict: {trial}")


def test_what_is_healthy_is_required_later() -> None:
    assert healthy({"b": WELL, "a": Finding(None, "t"), "c": ILL}) == ("a", "b")


def test_all_healthy_for_the_soak_is_good() -> None:
    found = judged(["web", "api"], {5: {"web": WELL, "api": WELL}})
    assert (found.verdict, found.at) == (Verdict.GOOD, 15)
    assert found.trial.complaints == ()


def test_what_was_not_required_is_not_asked_for() -> None:
    assert judged(["api"], {5: {"web": ILL, "api": WELL}}).verdict is Verdict.GOOD


def test_without_anything_required_it_is_good_after_the_soak() -> None:
    assert judged([], {5: {"web": ILL}})[:2] == (Verdict.GOOD, 15)


def test_what_comes_up_within_the_deadline_has_its_soak_after_it() -> None:
    assert judged(["web"], {0: {"web": ILL}, 99: {"web": WELL}})[:2] == (Verdict.GOOD, 109)


def test_what_is_not_healthy_at_the_deadline_is_bad_and_named() -> None:
    found = judged(["web", "api"], {0: {"web": ILL, "api": WELL}})
    assert (found.verdict, found.at) == (Verdict.BAD, 100)
    assert found.trial.complaints == (Complaint("web", "is down"),)
    assert reason(found.trial.complaints) == "web: is down"


def test_a_relapse_begins_the_soak_anew() -> None:
    assert judged(["web"], {0: {"web": WELL}, 5: {"web": ILL}, 6: {"web": WELL}})[:2] == (Verdict.GOOD, 16)


def test_a_relapse_after_the_deadline_is_the_end() -> None:
    assert judged(["web"], {95: {"web": WELL}, 102: {"web": ILL}})[:2] == (Verdict.BAD, 102)


def test_a_restart_between_two_looks_is_seen() -> None:
    found = judged(["web"], {0: {"web": Finding(None, "1")}, 5: {"web": Finding(None, "2")}})
    assert (found.verdict, found.at) == (Verdict.GOOD, 15)


def test_one_that_is_restarted_again_and_again_is_bad() -> None:
    looks = {float(at): {"web": Finding(None, str(at // 3))} for at in range(120)}
    found = judged(["web"], looks)
    assert (found.verdict, found.at) == (Verdict.BAD, 102)
    assert found.trial.complaints == (Complaint("web", "was restarted meanwhile"),)


def test_a_probe_that_its_owner_took_away_is_not_missed() -> None:
    assert judged(["web", "api"], {0: {"web": ILL, "api": WELL}, 5: {"api": WELL}})[:2] == (Verdict.GOOD, 15)


def test_a_probe_that_was_away_for_a_look_is_asked_for_again() -> None:
    looks: dict[float, Findings] = {0: {"web": ILL}, 1: {}, 2: {"web": ILL}}
    assert judged(["web"], looks).verdict is Verdict.BAD


def test_without_a_soak_the_first_healthy_look_decides() -> None:
    assert judged(["web"], {0: {"web": ILL}, 7: {"web": WELL}}, Terms(100, 0))[:2] == (Verdict.GOOD, 7)


def test_a_judging_that_goes_on_after_a_kill_of_homed_has_its_soak_anew() -> None:
    verdict, _ = judge(["web"], {"web": WELL}, Trial(), TERMS, 99)
    assert verdict is Verdict.WAIT
    assert judged(["web"], {105: {"web": WELL}}, Terms(100, 5))[:2] == (Verdict.GOOD, 110)


findings = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.builds(Finding, st.sampled_from([None, None, "", "down"]), st.sampled_from(["", "1", "2"])),
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from(["a", "b", "c", "gone"]), unique=True), st.lists(findings, min_size=1, max_size=40),
    st.integers(0, 20), st.integers(0, 10),
)  # fmt: skip
def test_there_is_a_verdict_in_time_and_good_means_healthy(
    required: list[str], looks: list[Findings], until: int, soak: int
) -> None:
    found = judged(required, dict(enumerate(looks)), Terms(until, soak))
    assert found.at <= until + soak
    last = looks[min(int(found.at), len(looks) - 1)]
    ill = {name for name in required if name in last and name not in healthy(last)}
    if found.verdict is Verdict.GOOD:
        assert not ill and found.trial.healthy_since is not None and found.at - found.trial.healthy_since >= soak
    else:
        assert found.trial.complaints and found.at >= until


@pytest.mark.parametrize("silent", ["", None])
def test_a_reason_without_words_is_a_reason(silent: str | None) -> None:
    verdict, _ = judge(["web"], {"web": Finding(silent)}, Trial(), TERMS, 200)
    assert verdict is (Verdict.WAIT if silent is None else Verdict.BAD)
