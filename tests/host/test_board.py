from pathlib import Path

from homed.host import board
from homed.host.board import Temperature, Throttling


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def thermal(root: Path, path: str, **files: str) -> None:
    for name, text in files.items():
        write(root, f"sys/class/thermal/{path}/{name}", text + "\n")


def pi(root: Path, bits: str, soc: str = "soc") -> None:
    write(root, f"sys/devices/platform/{soc}/{soc}:firmware/get_throttled", bits + "\n")


def test_a_device_tree_names_the_model_without_its_nul(tmp_path: Path) -> None:
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    assert board.model(tmp_path) == "Raspberry Pi 4 Model B Rev 1.4"


def test_without_a_device_tree_dmi_names_the_model(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/dmi/id/sys_vendor", "LENOVO\n")
    write(tmp_path, "sys/class/dmi/id/product_name", "20XW\n")
    assert board.model(tmp_path) == "LENOVO 20XW"


def test_a_name_that_nobody_filled_in_is_no_model(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/dmi/id/sys_vendor", "To Be Filled By O.E.M.\n")
    assert board.model(tmp_path) is None


def test_a_silent_board_tells_nothing(tmp_path: Path) -> None:
    assert board.model(tmp_path) is None
    assert board.temperatures(tmp_path) is None
    assert board.throttling(tmp_path) is None


def test_thermal_zones_read_in_celsius_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    thermal(tmp_path, "thermal_zone10", type="gpu-thermal", temp="-1500")
    thermal(tmp_path, "thermal_zone9", type="cpu-thermal", temp="48312")
    assert board.temperatures(tmp_path) == (
        Temperature("cpu-thermal", 48.312),
        Temperature("gpu-thermal", -1.5),
    )


def test_a_zone_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    thermal(tmp_path, "thermal_zone0", type="cpu-thermal", temp="50000")
    thermal(tmp_path, "thermal_zone1", type="PMIC-Die", temp="")
    thermal(tmp_path, "thermal_zone2", type="unwired", temp="-274000")
    (tmp_path / "sys/class/thermal/thermal_zone3/temp").mkdir(parents=True)  # a read fails as with EIO
    assert board.temperatures(tmp_path) == (Temperature("cpu-thermal", 50.0),)


def test_hwmon_is_read_where_there_are_no_thermal_zones(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/hwmon/hwmon0/name", "k10temp\n")
    write(tmp_path, "sys/class/hwmon/hwmon0/temp1_input", "61000\n")
    write(tmp_path, "sys/class/hwmon/hwmon0/temp1_label", "Tctl\n")
    write(tmp_path, "sys/class/hwmon/hwmon1/name", "nvme\n")
    write(tmp_path, "sys/class/hwmon/hwmon1/temp1_input", "39850\n")
    assert board.temperatures(tmp_path) == (Temperature("k10temp Tctl", 61.0), Temperature("nvme", 39.85))


def test_a_pi_at_rest_is_not_throttled_and_never_was(tmp_path: Path) -> None:
    pi(tmp_path, "0")
    assert board.throttling(tmp_path) == Throttling("raspberry_pi", (), ())


def test_a_pi_that_was_throttled_since_boot_says_so(tmp_path: Path) -> None:
    pi(tmp_path, "50000")
    assert board.throttling(tmp_path) == Throttling("raspberry_pi", (), ("under_voltage", "throttled"))


def test_a_pi_names_all_that_holds_it_back_now(tmp_path: Path) -> None:
    pi(tmp_path, "0xf000f", soc="soc@107c000000")
    every = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")
    assert board.throttling(tmp_path) == Throttling("raspberry_pi", every, every)


def test_a_pi_whose_firmware_answers_nonsense_tells_nothing(tmp_path: Path) -> None:
    pi(tmp_path, "error")
    assert board.throttling(tmp_path) is None


def test_a_processor_that_is_being_cooled_by_slowing_it_down_is_throttled(tmp_path: Path) -> None:
    thermal(tmp_path, "cooling_device0", type="cpu-balanced", cur_state="2", max_state="5")
    thermal(tmp_path, "cooling_device1", type="devfreq-17000000.gpu", cur_state="0", max_state="5")
    thermal(tmp_path, "cooling_device2", type="Processor", cur_state="1", max_state="3")
    thermal(tmp_path, "cooling_device3", type="Processor", cur_state="1", max_state="3")
    assert board.throttling(tmp_path) == Throttling("cooling_devices", ("cpu-balanced", "Processor"))


def test_a_fan_at_work_is_no_throttling(tmp_path: Path) -> None:
    thermal(tmp_path, "cooling_device0", type="cpu_fan", cur_state="3", max_state="4")
    assert board.throttling(tmp_path) is None
    thermal(tmp_path, "cooling_device1", type="cpufreq-cpu0", cur_state="0", max_state="4")
    assert board.throttling(tmp_path) == Throttling("cooling_devices", ())


def test_an_idle_powerclamp_is_no_throttling(tmp_path: Path) -> None:
    thermal(tmp_path, "cooling_device0", type="Processor", cur_state="-1", max_state="50")
    assert board.throttling(tmp_path) == Throttling("cooling_devices", ())
