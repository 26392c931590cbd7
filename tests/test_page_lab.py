"""The tab Lab in a real browser: runs are listed, measured, stopped, and their reports read."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

from app.http.server import build_app
from app.laboratory.runs import Kept, Progress
from app.page.lab_view import list_html, progress_html, report_html
from app.page.routes import report_url, routes
from app.service import Service
from eval.records import Description
from tests.pages import HOSTILE, Opener
from tests.serving_parts import BRIDGE, make_service
from tests.test_evidence import Reading
from tests.test_runs import put_frontier, put_run
from tests.test_service import upload

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMED = "<img src=x onerror=window.__xss=1>"  # what a folder may be called


@pytest.fixture
def opener(browser: "Browser") -> Iterator[Opener]:
    with Opener(browser) as made:
        yield made


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    with make_service(home) as made:
        yield made


def test_names_models_and_output_stay_text() -> None:
    runs = [Kept(NAMED, HOSTILE, HOSTILE, 0.0, 1234, "stopped"), Kept("x", "", "", 0, 0, "failed")]
    progress = Progress(HOSTILE, "running", 3725.0, 1234, (3, 16), (HOSTILE,) * 20)
    for html in (
        list_html(runs, "zh"),
        progress_html(progress, "en"),
        report_html(NAMED, f"<!DOCTYPE html>{HOSTILE}", report_url(NAMED, "zh"), "zh"),
    ):
        reading = Reading(html)
        assert {"img", "script"}.isdisjoint(reading.tags)
        assert not [name for name, _ in reading.attributes if name.startswith("on")]
        assert "{{" not in html and "${" not in html
    shown = progress_html(progress, "en")
    assert "1:02:05 · 1,234 samples · 3 of 16 arms" in Reading(shown).text
    assert '<progress value="3" max="16">' in shown and progress_html(None, "en") == ""
    suite = progress_html(Progress("x", "running", 5.0, 1234, None, (), (12, 1000)), "en")
    assert "0:05 · 12 of 1,000 samples" in Reading(suite).text  # 1,234 are those of earlier orders
    assert '<progress value="12" max="1000">' in suite


def test_a_report_is_shown_to_operators_and_forbids_itself_everything(
    service: Service, home: Path
) -> None:
    put_frontier(home / "laboratory" / "smoke")
    app = build_app(service, mount=lambda app: app.include_router(routes(service)))
    client = TestClient(app, base_url="http://127.0.0.1")
    reply = client.get(report_url("smoke", "zh"))
    assert reply.status_code == 200 and "<svg" in reply.text and 'lang="zh"' in reply.text
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and policy.endswith("sandbox")
    for wrong in ("../laboratory/smoke", str(home / "laboratory" / "smoke"), NAMED):
        assert client.get(report_url(wrong, "en")).status_code == 404
    service.require_people()
    assert client.get(report_url("smoke", "zh")).status_code == 404


def choose(page: "Page", box: str, choice: str) -> None:
    """Choose from one of the tab's lists."""
    page.locator(f"#tether-lab-{box} input").click()
    page.get_by_role("option", name=choice, exact=True).click()


@pytest.mark.browser
def test_runs_are_read_measured_and_stopped(opener: Opener, service: Service, home: Path) -> None:
    laboratory = home / "laboratory"
    put_frontier(laboratory / NAMED)
    put_run(laboratory / "decoding-0", Description("decoding", "", 0, {"generator": HOSTILE}))
    upload(service, "bridge.md", BRIDGE)
    shown = opener.open(opener.serve(service))
    page = shown.page
    shown.choose("Lab")
    rows = page.locator(".lab-runs tbody tr")
    rows.first.wait_for()
    assert rows.count() == 2

    rows.filter(has_text=NAMED).get_by_role("button").click()
    frame = page.frame_locator("#tether-lab-report iframe")
    frame.locator("svg").first.wait_for()
    assert frame.locator(".verdict").inner_text()
    assert page.locator("#tether-lab-report iframe").get_attribute("sandbox") == ""
    rows.filter(has_text="decoding-0").get_by_role("button").click()
    page.get_by_text("nothing of decoding-0 has been measured yet").wait_for()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.set_viewport_size({"width": 1280, "height": 844})

    choose(page, "what", "Reversal: facts the other way round")  # no model here can do that
    page.locator("#tether-lab-start").click()
    failed = page.locator(".lab-now.is-failed")  # told without a click, as all progress is
    failed.get_by_text("reversal (20): failed").wait_for()
    failed.get_by_text("gives no likelihoods").wait_for()

    choose(page, "what", "Attacks inside documents")
    page.locator("#tether-lab-limit input").fill("1000")
    page.locator("#tether-lab-start").click()
    page.locator(".lab-now.is-running").get_by_text("injection-attack (1000): running").wait_for()
    page.locator("#tether-lab-stop").click()
    page.locator(".lab-now.is-stopped").wait_for()
    page.locator("#tether-lab-start").wait_for()

    choose(page, "what", "Retrieve or fine-tune? (frontier)")
    budget = page.locator("#tether-lab-budget input")
    budget.fill("soon")
    budget.press("Enter")
    page.locator("#tether-lab-start").click()
    page.get_by_text('"soon" is no budget').wait_for()
    page.locator("#tether-language").click()
    page.get_by_role("tab", name="实验室").wait_for()
    page.get_by_role("button", name="开始", exact=True).wait_for()
    page.locator("th", has_text="检索还是微调").first.wait_for()
    assert shown.is_clean()
