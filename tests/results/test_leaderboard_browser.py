"""The page and MLflow's interface in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from simulated import SCRIPT, Store

from resbench.results import browser, publish, screenshots
from resbench.results.leaderboard import Leaderboard

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

Files = dict[str, str | bytes]

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("needs_browser")]


@pytest.fixture(scope="module")
def page(demo_files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    publish.write_files(folder, demo_files)
    return folder / publish.PAGE


@pytest.fixture(scope="module")
def window(needs_browser: None) -> Iterator[Chrome]:
    """One browser for all tests of the page: it starts slowly."""
    with browser.chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def mlflow(store: Store) -> Iterator[str]:
    """The address of MLflow's interface on the store. One server for all tests: it starts more slowly than a browser."""
    with browser.mlflow_server(store.uri) as address:
        yield address


@pytest.fixture
def driver(window: Chrome) -> Chrome:
    """The browser as a new one would be: light, wide, nothing remembered, nothing logged."""
    window.get("about:blank")
    look(window)
    for log in ("browser", "performance"):
        window.get_log(log)
    return window


def look(driver: Chrome, width: int = 1440, *, dark: bool = False) -> None:
    """Give the page's window a width and the system a preference."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    preference = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preference]})


def show(driver: Chrome, page: Path, state: str = "view=all") -> None:
    """Open a page at a state, even if it is the one that is open."""
    go(driver, page.as_uri() + (f"#{state}" if state else ""))


def go(driver: Chrome, address: str) -> None:
    """Load a page anew and wait for its script, which a busy machine can leave behind."""
    driver.get("about:blank")
    driver.get(address)
    screenshots.wait_for(driver, "return location.protocol !== 'about:' && document.readyState === 'complete'")


def column(driver: Chrome, key: str) -> list[str]:
    """What the visible rows show in a column, top to bottom."""
    script = """
        const at = [...document.querySelectorAll('#rows thead th')].findIndex((header) => header.dataset.key === arguments[0]);
        return [...document.querySelectorAll('#rows tbody tr')].filter((row) => !row.hidden).map((row) => row.cells[at].innerText.trim());
    """
    shown: list[str] = driver.execute_script(script, key)
    return shown


def aria_sort(driver: Chrome, key: str) -> str | None:
    value: str | None = driver.execute_script(
        "return document.querySelector(`th[data-key='${arguments[0]}']`).getAttribute('aria-sort')", key
    )
    return value


def click(driver: Chrome, key: str) -> None:
    heading = driver.find_element("css selector", f"th[data-key='{key}'] button")
    # as a reader does who scrolls the table until the heading is clear of the columns that stay in view
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", heading)
    heading.click()


def requests(driver: Chrome) -> list[str]:
    """Addresses the page asked for, but its own and data in the page."""
    events: list[dict[str, Any]] = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith(("data:", "about:", "chrome:"))]


def test_clicking_a_heading_sorts_by_number_and_again_in_reverse(driver: Chrome, page: Path) -> None:
    show(driver, page)
    before = column(driver, "val_loss")
    click(driver, "val_loss")
    losses = [float(text.split()[0]) for text in column(driver, "val_loss")]
    assert losses == sorted(losses)
    assert [f"{loss:.4f}" for loss in losses] != [text.split()[0] for text in before]
    assert aria_sort(driver, "val_loss") == "ascending"
    click(driver, "val_loss")
    assert [float(text.split()[0]) for text in column(driver, "val_loss")] == losses[::-1]
    assert aria_sort(driver, "val_loss") == "descending"

    # As text 15.7k would come before 60.1k and "100k" before "42.5k"; as numbers they do not.
    click(driver, "tokens_per_s")
    speeds = [float(text.removesuffix("k")) for text in column(driver, "tokens_per_s")]
    assert speeds == sorted(speeds)
    assert aria_sort(driver, "val_loss") is None
    click(driver, "size")
    assert column(driver, "size") == ["100k"] * 4 + ["400k"] * 4
    # Rows without a value are last in both directions.
    for _ in range(2):
        click(driver, "holm_p")
        assert [text[0] for text in column(driver, "holm_p")[-2:]] == ["–", "–"]
    assert driver.get_log("browser") == []
    assert {url.partition("#")[0] for url in requests(driver)} == {page.as_uri()}


def test_the_page_can_be_used_from_the_keyboard(driver: Chrome, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    show(driver, page)
    heading = driver.find_element("css selector", "th[data-key='val_loss'] button")
    heading.send_keys(Keys.ENTER)
    assert aria_sort(driver, "val_loss") == "ascending"
    heading.send_keys(Keys.SPACE)
    assert aria_sort(driver, "val_loss") == "descending"
    driver.find_element("css selector", "button[data-view='cost']").send_keys(Keys.ENTER)
    assert column(driver, "tokens_per_s")[0]
    driver.find_element("css selector", ".schemes summary").send_keys(Keys.ENTER)
    link = driver.find_element("css selector", ".schemes li:nth-child(3) a")
    link.send_keys(Keys.ENTER)
    assert driver.title.startswith("mhc · ")
    assert driver.execute_script("return document.activeElement === document.body")
    driver.switch_to.active_element.send_keys(Keys.TAB)
    assert driver.switch_to.active_element.text == "Skip to content"


def test_filters_narrow_the_rows(driver: Chrome, page: Path) -> None:
    from selenium.webdriver.support.ui import Select

    show(driver, page)
    box = driver.find_element("id", "filter")
    box.send_keys("MHC 400")
    assert column(driver, "label") == ["mhc"]
    assert driver.find_element("id", "count").text == "1 of 8 rows"
    box.clear()
    box.send_keys("no such thing")
    assert column(driver, "label") == []
    box.clear()
    box.send_keys(" ")
    Select(driver.find_element("id", "size")).select_by_visible_text("100k")
    assert column(driver, "size") == ["100k"] * 4
    Select(driver.find_element("id", "scheme")).select_by_visible_text("hc")
    assert column(driver, "label") == ["hc"]
    click(driver, "val_loss")
    assert column(driver, "label") == ["hc"], "sorting keeps the filter"
    driver.find_element("id", "reset").click()
    assert len(column(driver, "label")) == 8


def test_the_address_holds_what_a_reader_chose_and_brings_it_back(driver: Chrome, page: Path) -> None:
    from selenium.webdriver.support.ui import Select

    show(driver, page, "")
    Select(driver.find_element("id", "size")).select_by_visible_text("400k")
    driver.find_element("id", "filter").send_keys("hc")
    driver.find_element("css selector", "button[data-view='cost']").click()
    for _ in range(2):
        click(driver, "tokens_per_s")
    chosen, address = column(driver, "label"), driver.current_url
    assert address.partition("#")[2] == "q=hc&size=400k&sort=-tokens_per_s&view=cost"
    go(driver, address)
    assert column(driver, "label") == chosen
    assert aria_sort(driver, "tokens_per_s") == "descending"
    assert driver.find_element("id", "filter").get_attribute("value") == "hc"
    hidden = "return getComputedStyle(document.querySelector(`th[data-key='${arguments[0]}']`)).display"
    assert [driver.execute_script(hidden, key) for key in ("tokens_per_s", "holm_p")] == ["table-cell", "none"]

    # Another state in the same page, a state that means nothing, and the place of a figure, which is no state.
    driver.execute_script("location.hash = 'scheme=mhc&view=all'")
    screenshots.wait_for(driver, "return document.getElementById('count').textContent === '2 of 8 rows'")
    driver.execute_script("location.hash = 'size=nonsense&sort=nothing&view=%3Cb%3E&q=%'")
    screenshots.wait_for(driver, "return document.getElementById('size').value === ''")
    driver.execute_script("document.getElementById('reset').click(); location.hash = 'cost'")
    assert len(column(driver, "label")) == 8
    assert driver.get_log("browser") == []


def test_a_scheme_s_page_is_opened_from_its_row_and_leads_back(driver: Chrome, page: Path) -> None:
    show(driver, page)
    link = driver.find_element("css selector", "tbody tr[data-scheme='mhc'] th a")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    assert driver.title == "mhc · demo · resbench"
    text = driver.find_element("css selector", "body").text
    assert "Sinkhorn-Knopp" in text
    assert "after Holm's correction" in text
    assert driver.execute_script("return document.querySelectorAll('.equations sub').length") >= 5
    losses = [float(value.split()[0]) for value in column(driver, "val_loss")]
    click(driver, "val_loss")
    assert [float(value.split()[0]) for value in column(driver, "val_loss")] == sorted(losses)
    driver.find_element("link text", "resbench leaderboard").click()
    assert driver.title == "demo · resbench leaderboard"
    driver.find_element("link text", "Method").click()
    assert driver.title.startswith("Method")
    assert driver.get_log("browser") == []
    assert all(url.startswith("file://") for url in requests(driver))


@pytest.mark.parametrize("width", [390, 768, 1440])
@pytest.mark.parametrize("name", ["index.html", "schemes/mhc.html", "method.html"])
def test_nothing_but_tables_and_figures_scrolls_sideways(driver: Chrome, page: Path, name: str, width: int) -> None:
    look(driver, width)
    show(driver, page.parent / name)
    seen, wide = driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide == width
    assert seen <= width
    small = "return Math.min(...[...document.querySelectorAll('td, p, dd, code')].map((e) => parseFloat(getComputedStyle(e).fontSize)))"
    assert float(driver.execute_script(small)) >= 12.5


@pytest.mark.parametrize(("dark", "paper"), [(False, "rgb(255, 255, 255)"), (True, "rgb(18, 23, 28)")])
def test_the_page_follows_the_system_s_light_or_dark(driver: Chrome, page: Path, dark: bool, paper: str) -> None:
    """Body text has a contrast of at least 7 : 1 on its background, and text in figures has the page's colour."""
    look(driver, dark=dark)
    show(driver, page)
    assert background(driver) == paper
    ink = driver.execute_script("return getComputedStyle(document.body).color")
    assert contrast(ink, paper) >= 7
    text = "return getComputedStyle(document.querySelector('#loss_tokens svg text')).fill"
    assert driver.execute_script(text) == ink


def test_the_switch_overrules_the_system_on_every_page_and_gives_way_again(driver: Chrome, page: Path) -> None:
    show(driver, page)
    for label, paper in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 23, 28)")):
        driver.find_element("id", "theme").click()
        assert driver.find_element("id", "theme").text == f"Theme: {label}"
        assert background(driver) == paper
    show(driver, page.parent / "method.html", "")
    assert background(driver) == "rgb(18, 23, 28)", "remembered"
    driver.find_element("id", "theme").click()
    assert driver.find_element("id", "theme").text == "Theme: auto"
    assert background(driver) == "rgb(255, 255, 255)"


def test_a_scheme_called_script_does_nothing_on_any_page(driver: Chrome, hostile_files: Files, tmp_path: Path) -> None:
    publish.write_files(tmp_path, hostile_files)
    show(driver, tmp_path / publish.PAGE)
    assert SCRIPT in column(driver, "label")
    assert driver.execute_script("return document.scripts.length") == 2
    assert driver.title == "hostile · resbench leaderboard"
    pages = sorted(name for name in hostile_files if name.startswith("schemes/"))
    assert len(pages) == 5
    for name in pages:
        show(driver, tmp_path / name, "")
        assert driver.execute_script("return document.scripts.length") == 2
    assert driver.get_log("browser") == []


@pytest.mark.slow
def test_mlflow_shows_the_runs_and_compares_them(mlflow: str, demo: Leaderboard, store: Store, tmp_path: Path) -> None:
    chosen = screenshots.runs_to_compare(demo)
    assert len(chosen) == 4
    experiment = store.client.get_run(chosen[0]).info.experiment_id
    names = [store.client.get_run(run_id).info.run_name for run_id in chosen]
    with browser.chromium(1600, 1000) as driver:
        screenshots.leave_panels_closed(driver, mlflow)
        driver.get(f"{mlflow}/#/experiments/{experiment}/runs")
        screenshots.wait_for(driver, "return document.body.innerText.includes('scheme=hc,size=')")
        driver.save_screenshot(str(tmp_path / "experiment.png"))
        driver.get(mlflow + screenshots.compare_page(experiment, chosen))
        screenshots.wait_for(driver, "return document.body.innerText.includes('Comparing 4 Runs')")
        for name in names:
            screenshots.wait_for(driver, f"return document.body.innerText.includes({json.dumps(name)})")
        driver.save_screenshot(str(tmp_path / "compare.png"))
    assert (tmp_path / "compare.png").stat().st_size > 20_000


@pytest.mark.slow
def test_the_readme_s_pictures_can_be_taken(
    mlflow: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screenshots, "mlflow_server", lambda uri: nullcontext({store.uri: mlflow}[uri]))
    assert screenshots.main(["--tracking-uri", store.uri, "--study", "demo", "--out", str(tmp_path / "docs")]) == 0
    for name in ("leaderboard.png", "scheme.png", "mlflow-compare.png"):
        picture = (tmp_path / "docs" / name).read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 20_000


def background(driver: Chrome) -> str:
    colour: str = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    return colour


def contrast(first: str, second: str) -> float:
    """WCAG's contrast ratio of two colours written `rgb(r, g, b)`."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)
