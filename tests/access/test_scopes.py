"""Each scope holds the ones before it."""

import pytest

from homed.access.scopes import ANONYMOUS, LOCAL, Principal, Scope
from homed.api.auth import authorize
from homed.errors import ForbiddenError, UnauthorizedError

_ORDER = [Scope.READ, Scope.OPERATE, Scope.ADMIN]


@pytest.mark.parametrize("held", _ORDER)
@pytest.mark.parametrize("needed", _ORDER)
def test_a_scope_allows_itself_and_what_is_below(held: Scope, needed: Scope) -> None:
    allowed = _ORDER.index(held) >= _ORDER.index(needed)
    assert held.allows(needed) == allowed
    principal = Principal("key:a", held, "a")
    if allowed:
        authorize(principal, needed)
    else:
        with pytest.raises(ForbiddenError) as raised:
            authorize(principal, needed)
        assert raised.value.details == {"needed": str(needed), "held": str(held)}


@pytest.mark.parametrize("needed", _ORDER)
def test_nobody_may_do_nothing_and_the_local_caller_all(needed: Scope) -> None:
    with pytest.raises(UnauthorizedError):
        authorize(ANONYMOUS, needed)
    authorize(LOCAL, needed)


def test_what_is_open_is_open_to_all() -> None:
    authorize(ANONYMOUS, None)


def test_the_order_of_words_does_not_decide() -> None:
    assert set(Scope) == set(_ORDER) and Scope.ADMIN.allows(Scope.READ) and str(Scope.ADMIN) < str(Scope.READ)
