"""Who may take a job, whose a claim may be, and which claims are lost."""

from hypothesis import given
from hypothesis import strategies as st

from homed.jobs.claimants import Claim, Poller, Refusal, candidates, lost, presumed, refusal, without


def poller(id: str, address: str = "10.0.0.1", *, online: bool = True, named: bool = False, jobs: int = 0) -> Poller:
    return Poller(id, online, address, named, jobs)


def unowned(job: str, *whose: str) -> Claim:
    return Claim(job, 1, None, frozenset(whose))


def test_a_worker_takes_as_many_jobs_as_it_says() -> None:
    assert refusal(poller("a"), [], 0) is None
    assert refusal(poller("a", jobs=1), [], 0) is Refusal.NO_WORKER
    assert refusal(poller("a", jobs=1), [], 0, slots=2) is None
    assert refusal(poller("a"), [], 0, slots=0) is Refusal.NO_WORKER


def test_who_names_nobody_needs_an_idle_worker_that_no_claim_may_be_of() -> None:
    idle, busy, gone = poller("a"), poller("b", jobs=1), poller("c", online=False)
    assert refusal(None, [], 0) is Refusal.NO_WORKER
    assert refusal(None, [busy, gone], 0) is Refusal.NO_WORKER
    assert refusal(None, [idle, busy, gone], 0) is None
    assert refusal(None, [idle, busy, gone], 1) is Refusal.NO_WORKER


def test_a_claim_without_a_name_is_of_an_idle_worker_at_its_address() -> None:
    here, there = poller("a", "10.0.0.1"), poller("b", "10.0.0.2")
    named, busy = poller("c", "10.0.0.1", named=True), poller("d", "10.0.0.1", jobs=1)
    everybody = [here, there, named, busy, poller("e", "10.0.0.1", online=False)]
    assert candidates("10.0.0.1", everybody) == {"a"}
    assert candidates("10.0.0.9", everybody) == {"a", "b"}, "a proxy stands between"
    assert candidates("10.0.0.1", [named, busy]) == {"c"}, "there is no other"
    assert candidates("10.0.0.1", [busy]) == frozenset()


def test_a_claim_is_shown_as_the_first_idle_workers_that_it_may_be_of() -> None:
    pollers = [poller("a"), poller("b"), poller("c", jobs=1)]
    claims = [unowned("1", "b"), unowned("2", "a", "b"), unowned("3", "a", "b"), Claim("4", 1, "c")]
    assert presumed(claims, pollers) == {"1": "b", "2": "a"}


def test_a_claim_is_lost_with_its_worker_or_with_the_last_that_it_may_be_of() -> None:
    owned, either = Claim("1", 1, "a"), unowned("2", "a", "b")
    assert lost([owned, either], {"a", "b"}) == []
    assert lost([owned, either], {"b"}) == [owned]
    assert lost([owned, either], {"c"}) == [owned, either]
    assert lost([without(either, "b")], {"b"}) == [without(either, "b")]
    assert without(owned, "a") == owned


@given(
    st.lists(st.frozensets(st.sampled_from("abcd"), max_size=4), max_size=6),
    st.lists(st.sampled_from("abcd"), unique=True),
)
def test_no_worker_is_taken_to_have_two_jobs(whose: list[frozenset[str]], idle: list[str]) -> None:
    claims = [unowned(str(number), *names) for number, names in enumerate(whose)]
    found = presumed(claims, [poller(id) for id in idle])
    assert len(set(found.values())) == len(found)
    assert all(found[claim.job] in claim.candidates & set(idle) for claim in claims if claim.job in found)
