"""What is captured together: the data of the services, each tree once, in groups that are frozen as one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from homed.backups.ports import Capture, Mode, Source
from homed.backups.records import Section
from homed.backups.worker.messages import Group

_STRICTER = {Mode.LIVE: 0, Mode.PAUSED: 1, Mode.STOPPED: 2}


class Grouped(NamedTuple):
    """The groups in the order in which they are captured, and what is no part of the backup, with why."""

    groups: tuple[Group, ...]
    left_out: tuple[str, ...]


class _Tree(NamedTuple):
    source: Source
    users: tuple[str, ...]


def group(captures: Sequence[Capture]) -> Grouped:
    """Services that are frozen, stopped or have hooks, and share data with each other, are one group; so that what
    they see of it is of one moment. What only live services use is captured by itself.
    """
    trees, left_out = _trees(captures)
    by_name = {capture.service: capture for capture in captures}
    asking = {name for name, capture in by_name.items() if asks(capture)}
    groups = []
    for members in _joined(trees, asking):
        services = tuple(sorted({user for i in members for user in trees[i].users if user in asking}))
        sections = tuple(_section(trees[i], i, by_name) for i in members)
        groups.append(Group(sections, services, asks=bool(services)))
    # Hooks that write a dump for another service to read are rare; the quick ones first, so that few wait long.
    groups.sort(key=lambda one: (one.asks, one.sections[0].name))
    return Grouped(tuple(groups), tuple(left_out))


def asks(capture: Capture) -> bool:
    """Whether homed has something to do before and after: a service that does not run needs nothing."""
    return capture.running and (
        capture.mode is not Mode.LIVE or capture.before is not None or capture.after is not None
    )


def _trees(captures: Sequence[Capture]) -> tuple[list[_Tree], list[str]]:
    """Each source once, with all its users; one that lies in another is that one's."""
    users: dict[Source, list[str]] = {}
    left_out: list[str] = []
    for capture in captures:
        for source in capture.sources:
            if source.left_out:
                left_out.append(f"{source.name} of {capture.service}: {source.left_out}")
            else:
                users.setdefault(source, []).append(capture.service)
    trees: list[_Tree] = []
    for source in sorted(users, key=lambda one: len(PurePosixPath(one.path).parts)):
        outer = next((i for i, tree in enumerate(trees) if _inside(source.path, tree.source.path)), None)
        if outer is None:
            trees.append(_Tree(source, tuple(sorted(set(users[source])))))
        else:
            both = {*trees[outer].users, *users[source]}
            trees[outer] = _Tree(trees[outer].source, tuple(sorted(both)))
    trees.sort(key=lambda tree: (tree.source.kind, tree.source.name))
    return trees, left_out


def _inside(path: str, other: str) -> bool:
    return PurePosixPath(path).is_relative_to(other)


def _joined(trees: Sequence[_Tree], asking: Iterable[str]) -> Iterator[list[int]]:
    """Indexes of trees that belong together: they share, over some steps, a service that is not live."""
    left = dict(enumerate(trees))
    wanted = set(asking)
    while left:
        first = min(left)
        members, services = [first], set(left.pop(first).users) & wanted
        while more := [i for i, tree in left.items() if services.intersection(tree.users)]:
            for i in more:
                members.append(i)
                services |= set(left.pop(i).users) & wanted
        yield sorted(members)


def _section(tree: _Tree, number: int, captures: Mapping[str, Capture]) -> Section:
    source = tree.source
    modes = [captures[user].mode for user in tree.users if captures[user].running]
    return Section(
        kind=source.kind,
        name=source.name,
        prefix=f"volumes/{source.name}" if source.kind == "volume" else f"paths/{number}",
        users=tree.users,
        stored=source.path,
        capture=max(modes, key=_STRICTER.__getitem__, default=Mode.LIVE).value,
    )
