"""The typed calls on RAUC's service, against one that speaks as RAUC is documented to, old and new."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest
from dbus_next.message import Message
from dbus_next.signature import Variant

from homed.bus.connection import Bus
from homed.bus.rauc import NAME, Installer, Listener, Properties
from homed.errors import RaucUnavailableError, UpdateConflictError, UpdateError
from tests.support.bus import Running, Service, eventually
from tests.support.rauc import SystemBus

pytestmark = pytest.mark.usefixtures("nothing_left")
INTERFACE = "de.pengutronix.rauc.Installer"
GIO = "org.gtk.GDBus.UnmappedGError.Quark._g_2dio_2derror_2dquark.Code30"
PROPERTIES = {
    "Operation": Variant("s", "idle"),
    "LastError": Variant("s", "the last one"),
    "Compatible": Variant("s", "board"),
    "Variant": Variant("s", "large"),
    "BootSlot": Variant("s", "A"),
    "Progress": Variant("(isi)", [99, "Copying image", 2]),
}
SLOTS = [
    ["rootfs.1", {"class": Variant("s", "rootfs"), "size": Variant("t", 2**40), "installed.count": Variant("u", 3)}],
    ["rootfs.0", {"class": Variant("s", "rootfs"), "state": Variant("s", "booted")}],
]


def refuse(text: str, name: str = GIO) -> Callable[[Message], Message]:
    return lambda message: Message.new_error(message, name, text)


def twice(value: Any) -> Variant:
    """A dictionary in a variant in a variant, as newer RAUCs send some."""
    return Variant("v", Variant("a{sv}", value))


class Told(NamedTuple):
    """What the listener was told, in order."""

    events: list[Any]

    def listener(self) -> Listener:
        tell = self.events.append
        return Listener(
            lambda there: tell(("owner", there)),
            lambda percentage, message: tell(("progress", percentage, message)),
            lambda operation: tell(("operation", operation)),
            lambda result: tell(("completed", result)),
        )


class Rig(NamedTuple):
    rauc: Service
    installer: Installer
    told: Told

    async def signal(self, member: str, signature: str, *body: object, interface: str = INTERFACE) -> None:
        await self.rauc.signal(member, signature, *body, interface=interface, path="/")

    async def changed(self, **values: Variant) -> None:
        interface = "org.freedesktop.DBus.Properties"
        await self.signal("PropertiesChanged", "sa{sv}as", INTERFACE, values, [], interface=interface)


@pytest.fixture
async def rig(daemon: SystemBus) -> AsyncIterator[Rig]:
    methods = {
        "GetAll": lambda _: ("a{sv}", [PROPERTIES]),
        "GetSlotStatus": lambda _: ("a(sa{sv})", [SLOTS]),
        "GetPrimary": lambda _: ("s", ["rootfs.0"]),
        "InstallBundle": lambda _: ("", []),
        "Info": lambda _: ("ss", ["board", "2.0"]),
        "Mark": lambda message: ("ss", [f"rootfs.{message.body[1]}", f"marked {message.body[0]}"]),
    }
    bus = Bus(daemon.address)
    installer, told = Installer(bus), Told([])
    installer.listen(told.listener())
    async with Service(daemon.address, methods, NAME) as rauc, Running(bus):
        await eventually("RAUC", lambda: installer.is_there)
        yield Rig(rauc, installer, told)


async def test_its_properties_are_told(rig: Rig) -> None:
    assert await rig.installer.properties() == Properties(
        "idle", "the last one", "board", "large", "A", (99, "Copying image")
    )


async def test_properties_that_it_does_not_have_are_empty(rig: Rig) -> None:
    rig.rauc.methods["GetAll"] = lambda _: ("a{sv}", [{"Compatible": Variant("s", "board")}])
    assert await rig.installer.properties() == Properties("", "", "board", "", "", (0, ""))


async def test_its_slots_are_told(rig: Rig) -> None:
    assert await rig.installer.slots() == [
        ("rootfs.1", {"class": "rootfs", "size": 2**40, "installed.count": 3}),
        ("rootfs.0", {"class": "rootfs", "state": "booted"}),
    ]


async def test_the_primary_is_told_where_the_bootloader_can_tell(rig: Rig) -> None:
    assert await rig.installer.primary() == "rootfs.0"
    rig.rauc.methods["GetPrimary"] = lambda _: ("s", [""])
    assert await rig.installer.primary() is None
    rig.rauc.methods["GetPrimary"] = refuse("Obtaining primary entry from bootloader 'noop' not supported yet")
    assert await rig.installer.primary() is None


async def test_a_busy_rauc_is_no_bootloader_that_cannot_tell(rig: Rig) -> None:
    rig.rauc.methods["GetPrimary"] = refuse("already processing a different method")
    with pytest.raises(UpdateConflictError):
        await rig.installer.primary()
    rig.rauc.methods["GetPrimary"] = refuse("gone", "org.freedesktop.DBus.Error.NoReply")
    with pytest.raises(RaucUnavailableError):
        await rig.installer.primary()


async def test_an_installation_is_begun_with_its_options(rig: Rig) -> None:
    await rig.installer.install("/data/ü 2.raucb", {})
    await rig.installer.install("/data/2.raucb", {"ignore-compatible": True})
    assert rig.rauc.asked[0] == ("InstallBundle", ["/data/ü 2.raucb", {}])
    (path, options), _ = rig.rauc.asked[1][1], None
    assert (path, options["ignore-compatible"].signature, options["ignore-compatible"].value) == (
        "/data/2.raucb", "b", True,
    )  # fmt: skip


async def test_a_second_installation_is_refused(rig: Rig) -> None:
    rig.rauc.methods["InstallBundle"] = refuse("Already processing a different method")
    with pytest.raises(UpdateConflictError):
        await rig.installer.install("/data/2.raucb", {})


async def test_a_bundle_is_inspected(rig: Rig) -> None:
    found = {
        "manifest-hash": Variant("s", "abcd"),
        "update": twice({"compatible": Variant("s", "board"), "version": Variant("s", "2.0")}),
        "bundle": twice({"format": Variant("s", "verity")}),
        "images": Variant("v", Variant("aa{sv}", [{"slot-class": Variant("s", "rootfs"), "size": Variant("t", 5)}])),
    }
    rig.rauc.methods["InspectBundle"] = lambda _: ("a{sv}", [found])
    assert await rig.installer.inspect("/data/2.raucb") == {
        "manifest-hash": "abcd",
        "update": {"compatible": "board", "version": "2.0"},
        "bundle": {"format": "verity"},
        "images": [{"slot-class": "rootfs", "size": 5}],
    }
    assert rig.rauc.asked == [("InspectBundle", ["/data/2.raucb", {}])]


async def test_an_old_rauc_cannot_inspect_and_tells_what_it_is(rig: Rig) -> None:
    """dbus-next's own answer to an unknown method has the name that GDBus's has."""
    assert await rig.installer.inspect("/data/2.raucb") is None
    assert await rig.installer.info("/data/2.raucb") == ("board", "2.0")


async def test_a_bundle_that_rauc_refuses_is_not_one_of_an_old_rauc(rig: Rig) -> None:
    text = "signature verification failed: Verify error: certificate has expired"
    for member in ("InspectBundle", "Info"):
        rig.rauc.methods[member] = refuse(text)
    for ask in (rig.installer.inspect, rig.installer.info):
        with pytest.raises(UpdateError) as raised:
            await ask("/data/2.raucb")
        assert (raised.value.code, raised.value.details) == ("UPDATE_SIGNATURE", {"rauc": text})


async def test_a_slot_is_marked(rig: Rig) -> None:
    assert await rig.installer.mark("good", "1") == ("rootfs.1", "marked good")
    assert rig.rauc.asked == [("Mark", ["good", "1"])]


async def test_what_it_does_is_heard(rig: Rig) -> None:
    await rig.changed(Operation=Variant("s", "installing"))
    await rig.changed(Progress=Variant("(isi)", [50, "half", 1]), Operation=Variant("s", "installing"))
    await rig.signal("Completed", "i", 1)
    await rig.changed(Operation=Variant("s", "idle"), LastError=Variant("s", "no"))
    expected = [
        ("owner", True), ("operation", "installing"), ("progress", 50, "half"), ("operation", "installing"),
        ("completed", 1), ("operation", "idle"),
    ]  # fmt: skip
    await eventually("all of it", lambda: len(rig.told.events) >= len(expected))
    assert rig.told.events == expected


async def test_what_is_not_the_installers_is_not_heard(rig: Rig) -> None:
    await rig.signal("Completed", "i", 0, interface="org.example.Other")
    await rig.signal("Stranger", "s", "x")
    properties = "org.freedesktop.DBus.Properties"
    await rig.signal("PropertiesChanged", "sa{sv}as", "org.example.Other", {"Operation": Variant("s", "x")}, [],
                     interface=properties)  # fmt: skip
    await rig.signal("Completed", "i", 7)
    await eventually("the last", lambda: rig.told.events[-1] == ("completed", 7))
    assert rig.told.events == [("owner", True), ("completed", 7)]


@pytest.mark.parametrize(
    ("signature", "body"), [("", []), ("s", ["x"]), ("sa{sv}as", [INTERFACE, {"Progress": Variant("s", "half")}, []])]
)
async def test_a_signal_that_makes_no_sense_harms_nobody(
    rig: Rig, signature: str, body: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    for member in ("Completed", "PropertiesChanged"):
        await rig.signal(member, signature, *body)
    await rig.signal("Completed", "i", 0)
    await eventually("the last", lambda: rig.told.events[-1] == ("completed", 0))
    assert rig.told.events == [("owner", True), ("completed", 0)]


async def test_a_rauc_that_goes_away_is_heard(rig: Rig) -> None:
    rig.rauc.close()
    await eventually("its going", lambda: not rig.installer.is_there)
    assert rig.told.events == [("owner", True), ("owner", False)]
    with pytest.raises(RaucUnavailableError):
        await rig.installer.slots()


async def test_a_rauc_that_goes_away_over_a_call_is_unavailable(rig: Rig) -> None:
    rig.rauc.methods["Mark"] = lambda _: None
    call = asyncio.ensure_future(rig.installer.mark("good", "booted"))
    await eventually("the call", lambda: rig.rauc.asked)
    rig.rauc.close()
    with pytest.raises(RaucUnavailableError):
        await call


async def test_without_a_bus_there_is_no_rauc(daemon: SystemBus) -> None:
    installer = Installer(Bus(daemon.address))
    assert not installer.is_there
    with pytest.raises(RaucUnavailableError, match="the system bus is away"):
        await installer.properties()
