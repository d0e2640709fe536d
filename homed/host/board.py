"""What the hardware says of itself, read from sysfs and the device tree.

Every function takes `root`, the directory that stands for `/`, and answers None where the board does not
tell: a guess would be worse. Reads take microseconds, but a sensor on a slow bus (I2C) can take
milliseconds: call from a worker thread.
"""

import re
from pathlib import Path
from typing import Literal

import msgspec

ROOT = Path("/")

_PI_FLAGS = {0: "under_voltage", 1: "frequency_capped", 2: "throttled", 3: "soft_temperature_limit"}
_PI_SINCE_BOOT = 16
_PROCESSOR = re.compile(r"cpu|gpu|processor", re.IGNORECASE)
_FAN = re.compile(r"fan", re.IGNORECASE)
# What firmware writes where nobody has filled the name in.
_PLACEHOLDERS = {"", "to be filled by o.e.m.", "system manufacturer", "system product name", "default string"}


class Temperature(msgspec.Struct, frozen=True):
    """One sensor: its name as the kernel gives it (`cpu-thermal`) and degrees Celsius."""

    sensor: str
    celsius: float


class Throttling(msgspec.Struct, frozen=True):
    """What holds the processor back.

    `source` says who told: the Pi's firmware (`now` and `since_boot` hold `under_voltage`,
    `frequency_capped`, `throttled`, `soft_temperature_limit`) or the kernel's cooling devices (`now` holds
    their types). `since_boot` is None where nothing remembers.
    """

    source: Literal["raspberry_pi", "cooling_devices"]
    now: tuple[str, ...]
    since_boot: tuple[str, ...] | None = None


def model(root: Path = ROOT) -> str | None:
    """The board's name, such as `Raspberry Pi 4 Model B Rev 1.4`; its serial number is never read."""
    named = _text(root / "proc/device-tree/model")
    if named:
        return named
    dmi = root / "sys/class/dmi/id"
    parts = [text for name in ("sys_vendor", "product_name") if (text := _text(dmi / name))]
    told = [part for part in parts if part.lower() not in _PLACEHOLDERS]
    return " ".join(told) or None


def temperatures(root: Path = ROOT) -> tuple[Temperature, ...] | None:
    """Every thermal zone that reads; hwmon's inputs where there is none; None without any sensor."""
    return _thermal_zones(root) or _hwmon(root) or None


def throttling(root: Path = ROOT) -> Throttling | None:
    """The Pi's firmware where there is one, else the cooling devices of processors; None without either."""
    return _pi_throttling(root) or _cooling_devices(root)


def _thermal_zones(root: Path) -> tuple[Temperature, ...]:
    found = []
    for zone in _numbered(root / "sys/class/thermal", "thermal_zone*"):
        # A zone that is switched off answers EAGAIN or EINVAL, one without a sensor 0 kelvin: no readings.
        millidegrees = _number(zone / "temp")
        if millidegrees is not None and millidegrees > -273_000:
            found.append(Temperature(_text(zone / "type") or zone.name, millidegrees / 1000))
    return tuple(found)


def _hwmon(root: Path) -> tuple[Temperature, ...]:
    found = []
    for device in _numbered(root / "sys/class/hwmon", "hwmon*"):
        chip = _text(device / "name") or device.name
        for reading in _numbered(device, "temp*_input"):
            millidegrees = _number(reading)
            if millidegrees is not None:
                label = _text(device / reading.name.replace("_input", "_label"))
                found.append(Temperature(f"{chip} {label}" if label else chip, millidegrees / 1000))
    return tuple(found)


def _pi_throttling(root: Path) -> Throttling | None:
    # `soc` carries its bus address in its name on newer models.
    for path in (root / "sys/devices/platform").glob("soc*/soc*:firmware/get_throttled"):
        text = _text(path)
        try:
            bits = int(text or "", 16)
        except ValueError:
            continue
        return Throttling("raspberry_pi", _flags(bits), _flags(bits >> _PI_SINCE_BOOT))
    return None


def _flags(bits: int) -> tuple[str, ...]:
    return tuple(name for bit, name in _PI_FLAGS.items() if bits >> bit & 1)


def _cooling_devices(root: Path) -> Throttling | None:
    active: list[str] = []
    known = False
    for device in _numbered(root / "sys/class/thermal", "cooling_device*"):
        kind = _text(device / "type") or ""
        # A fan at work (`cpu_fan`) keeps the processor fast: the opposite of throttling.
        if not _PROCESSOR.search(kind) or _FAN.search(kind):
            continue
        state = _number(device / "cur_state")
        if state is None:
            continue
        known = True
        if state > 0:
            active.append(kind)
    # Each core has a device of one type (`Processor`): named once.
    return Throttling("cooling_devices", tuple(dict.fromkeys(active))) if known else None


def _numbered(directory: Path, pattern: str) -> list[Path]:
    """What matches, by the number in its name: zone 10 comes after zone 9."""
    return sorted(directory.glob(pattern), key=lambda path: int("0" + re.sub(r"\D", "", path.name)))


def _number(path: Path) -> int | None:
    try:
        return int(_text(path) or "")
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    """A small file's text without the device tree's NUL and the line's end; None if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \t\r\n")
    except OSError:
        # Absent on this board, or a sensor that answers EIO: both are "the board does not tell".
        return None
