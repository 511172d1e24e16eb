"""The page and MLflow's interface in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from simulated import SCRIPT, Store

from resbench.results import browser, publish, screenshots
from resbench.results.leaderboard import Leaderboard, make_leaderboard
from resbench.results.runs import load_runs

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("needs_browser")]


@pytest.fixture(scope="module")
def page(demo: Leaderboard, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    publish.write_files(folder, publish.files_of(demo, store.uri))
    return folder / publish.PAGE


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


def test_clicking_a_heading_sorts_by_number_and_again_in_reverse(page: Path) -> None:
    with browser.chromium() as driver:
        driver.get(page.as_uri())
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
            assert column(driver, "holm_p")[-2:] == ["–", "–"]
        assert driver.get_log("browser") == []
        assert requests(driver) == [page.as_uri()]


def test_the_page_can_be_used_from_the_keyboard(page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    with browser.chromium() as driver:
        driver.get(page.as_uri())
        heading = driver.find_element("css selector", "th[data-key='val_loss'] button")
        heading.send_keys(Keys.ENTER)
        assert aria_sort(driver, "val_loss") == "ascending"
        heading.send_keys(Keys.SPACE)
        assert aria_sort(driver, "val_loss") == "descending"


def test_filters_narrow_the_rows(page: Path) -> None:
    from selenium.webdriver.support.ui import Select

    with browser.chromium() as driver:
        driver.get(page.as_uri())
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


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_nothing_but_tables_and_figures_scrolls_sideways(page: Path, width: int, tmp_path: Path) -> None:
    with browser.chromium(width, 844) as driver:
        driver.get(page.as_uri())
        seen, window = driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert window == width
        assert seen <= width
        assert (
            float(
                driver.execute_script(
                    "return parseFloat(getComputedStyle(document.querySelector('tbody td')).fontSize)"
                )
            )
            >= 14
        )
        driver.save_screenshot(str(tmp_path / f"{width}.png"))


@pytest.mark.parametrize(("dark", "paper"), [(False, "rgb(255, 255, 255)"), (True, "rgb(18, 23, 28)")])
def test_the_page_follows_the_system_s_light_or_dark(page: Path, dark: bool, paper: str) -> None:
    """Body text has a contrast of at least 7 : 1 on its background, and text in figures has the page's colour."""
    with browser.chromium(dark=dark) as driver:
        driver.get(page.as_uri())
        assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") == paper
        ink = driver.execute_script("return getComputedStyle(document.body).color")
        assert contrast(ink, paper) >= 7
        assert (
            driver.execute_script("return getComputedStyle(document.querySelector('#loss_tokens svg text')).fill")
            == ink
        )


def test_a_scheme_called_script_does_nothing(store: Store, tmp_path: Path) -> None:
    hostile = make_leaderboard(load_runs(store.uri, "hostile"), "hostile")
    publish.write_files(tmp_path, publish.files_of(hostile, store.uri))
    with browser.chromium() as driver:
        driver.get((tmp_path / publish.PAGE).as_uri())
        assert SCRIPT in column(driver, "label")
        assert driver.execute_script("return document.scripts.length") == 1
        assert driver.get_log("browser") == []
        assert driver.title == "hostile · resbench leaderboard"


@pytest.mark.slow
def test_mlflow_shows_the_runs_and_compares_them(demo: Leaderboard, store: Store, tmp_path: Path) -> None:
    chosen = screenshots.runs_to_compare(demo)
    assert len(chosen) == 4
    experiment = store.client.get_run(chosen[0]).info.experiment_id
    names = [store.client.get_run(run_id).info.run_name for run_id in chosen]
    with browser.mlflow_server(store.uri) as address, browser.chromium(1600, 1000) as driver:
        screenshots.leave_panels_closed(driver, address)
        driver.get(f"{address}/#/experiments/{experiment}/runs")
        screenshots.wait_for(driver, "return document.body.innerText.includes('scheme=hc,size=')")
        driver.save_screenshot(str(tmp_path / "experiment.png"))
        driver.get(address + screenshots.compare_page(experiment, chosen))
        screenshots.wait_for(driver, "return document.body.innerText.includes('Comparing 4 Runs')")
        for name in names:
            screenshots.wait_for(driver, f"return document.body.innerText.includes({json.dumps(name)})")
        driver.save_screenshot(str(tmp_path / "compare.png"))
    assert (tmp_path / "compare.png").stat().st_size > 20_000


@pytest.mark.slow
def test_the_readme_s_pictures_can_be_taken(store: Store, tmp_path: Path) -> None:
    assert screenshots.main(["--tracking-uri", store.uri, "--study", "demo", "--out", str(tmp_path / "docs")]) == 0
    for name in ("leaderboard.png", "mlflow-compare.png"):
        picture = (tmp_path / "docs" / name).read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 20_000


def contrast(first: str, second: str) -> float:
    """WCAG's contrast ratio of two colours written `rgb(r, g, b)`."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)
