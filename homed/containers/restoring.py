"""Services as a backup has them: read, checked against this board, and put in order."""

from collections.abc import Iterable, Mapping

import msgspec

from homed.containers import dependencies
from homed.containers.mappings import parse_volume
from homed.containers.records import Service
from homed.containers.sealing import Sealing
from homed.containers.services import LONGEST_SPEC, MAX_TOTAL_BYTES, MOST_SERVICES, Services, spec_size
from homed.containers.sources import mounted
from homed.containers.spec import ServiceName, ServiceSpec
from homed.errors import FieldError, HomedError, ValidationError


def read(name: str, record: bytes, sealing: Sealing) -> Service:
    """ValidationError where it is not a service of this name."""
    field = f"services.{name[:64]}"
    try:
        service = sealing.decode(record)
        msgspec.convert(name, ServiceName)
    except ValidationError as error:
        raise ValidationError([FieldError(f"{field}.{e.field}", e.message) for e in error.errors]) from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValidationError([FieldError(field, f"is not a service: {error}")]) from error
    if service.name != name:
        raise ValidationError([FieldError(field, "is the record of another one")])
    return service


def in_order(services: Iterable[Service]) -> list[Service]:
    """What is depended on first."""
    known = {service.name: service for service in services}
    ranks = dependencies.order({name: service.effective.depends_on for name, service in known.items()})
    return [known[name] for rank in ranks for name in rank]


def mounted_paths(service: Service) -> set[str]:
    """Also by a configuration that was taken back, or is to be fallen back on."""
    specs = [service.spec] if service.good is None else [service.spec, service.good]
    return {path for spec in specs for path in mounted(map(parse_volume, spec.volumes))[1]}


def problems(records: Mapping[str, bytes], present: Services, *, alone: bool) -> list[FieldError]:
    """Why these could not be services of this board; unless `alone`, also for what they depend on."""
    errors: list[FieldError] = []
    services: list[Service] = []
    for name, record in records.items():
        try:
            services.append(read(name, record, present.sealing))
        except ValidationError as error:
            errors += error.errors
    for service in services:
        errors += _refused(service, present)
    if not alone:
        errors += _between(services, records, present)
    return errors


def _refused(service: Service, present: Services) -> list[FieldError]:
    field = f"services.{service.name}"
    specs = [service.spec] if service.effective == service.spec else [service.spec, service.effective]
    errors = [FieldError(f"{field}.{e.field}", e.message) for spec in specs for e in _look(spec, present)]
    if any(len(msgspec.json.encode(spec)) > LONGEST_SPEC for spec in specs):
        errors.append(FieldError(field, f"a service's configuration may have at most {LONGEST_SPEC} bytes"))
    return list(dict.fromkeys(errors))


def _look(spec: ServiceSpec, present: Services) -> list[FieldError]:
    try:
        return present.refused(spec)
    except HomedError as error:
        return [FieldError("", error.message)]


def _between(services: list[Service], records: Mapping[str, bytes], present: Services) -> list[FieldError]:
    errors = []
    there = {service.name for service in present.all() if not service.deleting}
    for service in services:
        errors += [
            FieldError(
                f"services.{service.name}.{dependencies.field(service.spec.depends_on, i)}",
                f"there is no service '{other}'",
            )
            for i, other in enumerate(service.spec.depends_on)
            if other not in records and other not in there
        ]
    size = present.size_without(records.keys()) + sum(spec_size(service) for service in services)
    if size > MAX_TOTAL_BYTES:
        errors.append(FieldError("services", f"their configurations may have at most {MAX_TOTAL_BYTES} bytes together"))
    graph = {**present.graph(), **{service.name: service.spec.depends_on for service in services}}
    seen: set[str] = set()
    for service in services:
        loop = [] if service.name in seen else dependencies.cycle(graph, service.name)
        seen.update(loop)
        if loop:
            message = f"would make a circle: {' → '.join(loop)}"
            errors.append(FieldError(f"services.{service.name}.depends_on", message))
    if len(there | set(records)) > MOST_SERVICES:
        errors.append(FieldError("services", f"there may be at most {MOST_SERVICES} services"))
    return errors
