"""One process for all doors: fair turns, visible positions, cancelling, uploads, an orderly end."""

import io
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.assembly import build_generator
from app.service import MOST_OPEN, Service, Waiting, safe_file_name
from app.settings import load_settings
from ingest.errors import (
    GeneratorError,
    QuestionError,
    ServiceBusy,
    StoreError,
    UnknownCollection,
    UsageError,
)
from ingest.pipeline import FileOutcome
from ingest.sources import Piped
from model.answers import Answer
from model.assistant import Drafted, Finished, Retrieved
from model.feedback import Feedback, FeedbackStore
from model.generators import Decoding, ScriptedGenerator
from model.prompts import Prompt
from retrieval.encoders import Encoder
from tests.serving_parts import BRIDGE, DRAFT, QUESTION, TEA, GatedGenerator, make_service


@pytest.fixture
def gated() -> GatedGenerator:
    return GatedGenerator()


@pytest.fixture
def service(home: Path, gated: GatedGenerator) -> Iterator[Service]:
    """A service with one place, whose generator waits for its gate."""
    with make_service(home, gated, generator__slots="1") as made:
        upload(made, "bridge.md", BRIDGE)
        yield made
        gated.gate.set()


def upload(service: Service, name: str, data: bytes, collection: str | None = None) -> FileOutcome:
    return service.upload([(name, io.BytesIO(data))], collection=collection).outcomes[0]


def answer(service: Service, question: str = QUESTION, **options: str) -> Answer:
    events = service.ask(question, collection=options.get("collection"))
    return next(event.answer for event in events if isinstance(event, Finished))


class TestAsking:
    def test_a_question_travels(self, service: Service, gated: GatedGenerator) -> None:
        gated.gate.set()
        events = list(service.ask(QUESTION))
        assert isinstance(events[0], Retrieved)
        assert "".join(event.text for event in events if isinstance(event, Drafted)) == DRAFT
        assert isinstance(events[-1], Finished)
        assert (events[-1].answer.status, events[-1].answer.text) == ("supported", DRAFT)
        assert service.load() == (0, 0)

    def test_who_waits_sees_its_place_and_owners_take_turns(
        self, service: Service, gated: GatedGenerator
    ) -> None:
        order: list[str] = []
        positions: dict[str, list[int]] = {}

        def ask(name: str, owner: str, has_joined: threading.Event) -> None:
            for event in service.ask(QUESTION, owner=owner):
                if isinstance(event, Waiting):
                    positions.setdefault(name, []).append(event.position)
                elif isinstance(event, Finished):
                    order.append(name)
                has_joined.set()

        threads = []
        for name, owner in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")]:
            has_joined = threading.Event()
            threads.append(threading.Thread(target=ask, args=(name, owner, has_joined)))
            threads[-1].start()
            assert has_joined.wait(30)
        assert service.load() == (1, 3)
        gated.gate.set()
        for thread in threads:
            thread.join(60)
        assert order == ["a1", "a2", "b1", "a3"]
        assert {name: told[0] for name, told in positions.items()} == {"a2": 1, "a3": 2, "b1": 2}
        assert gated.most_inside == 1

    def test_a_position_is_told_again_while_nothing_moves(
        self, service: Service, gated: GatedGenerator
    ) -> None:
        blocking = service.ask(QUESTION)
        next(blocking)
        waiting = service.ask(QUESTION)
        assert [next(waiting), next(waiting), next(waiting)] == [Waiting(1)] * 3
        waiting.close()
        blocking.close()
        assert service.load() == (0, 0)

    def test_closing_an_answer_ends_its_decoding_and_frees_its_place(
        self, service: Service, gated: GatedGenerator
    ) -> None:
        running = service.ask(QUESTION)
        while not isinstance(next(running), Drafted):
            pass
        assert gated.inside == 1
        waiting = service.ask(QUESTION)
        assert next(waiting) == Waiting(1)
        running.close()
        assert gated.inside == 0
        assert isinstance(next(waiting), Retrieved)
        waiting.close()

    def test_an_error_frees_the_place_too(self, home: Path) -> None:
        class Broken(ScriptedGenerator):
            def stream(
                self, prompt: Prompt, decoding: Decoding, scores: list[float] | None = None
            ) -> Iterator[str]:
                yield "Ola"
                raise GeneratorError("it broke; try again")

        with make_service(home, Broken(), generator__slots="1") as service:
            upload(service, "bridge.md", BRIDGE)
            for _ in range(3):
                with pytest.raises(GeneratorError):
                    list(service.ask(QUESTION))
            assert service.load() == (0, 0)

    def test_wrong_questions_are_refused_without_waiting(self, service: Service) -> None:
        blocking = service.ask(QUESTION)
        next(blocking)
        with pytest.raises(QuestionError):
            next(service.ask("  "))
        with pytest.raises(UnknownCollection, match="tether ingest"):
            next(service.ask(QUESTION, collection="nowhere"))
        blocking.close()

    def test_the_line_is_bounded(self, home: Path, gated: GatedGenerator) -> None:
        limits = {"generator__slots": "1", "serve__waiting": "3", "serve__waiting_each": "2"}
        with make_service(home, gated, **limits) as service:
            upload(service, "bridge.md", BRIDGE)
            running = [service.ask(QUESTION, owner=owner) for owner in "aaab"]
            for events in running:
                next(events)
            for owner in "ac":
                with pytest.raises(ServiceBusy, match="ask again"):
                    next(service.ask(QUESTION, owner=owner))
            for events in reversed(running):
                events.close()

    def test_given_passages_and_memory_need_no_collection(self, home: Path) -> None:
        with make_service(home) as service:
            given = list(service.ask(QUESTION, passages=[BRIDGE.decode()]))[-1]
            assert isinstance(given, Finished) and given.answer.status == "supported"
            again = list(service.ask(QUESTION, passages=given.answer.passages))[-1]
            assert isinstance(again, Finished) and again.answer.text == given.answer.text
            nothing = list(service.ask(QUESTION, passages=[]))[-1]
            assert isinstance(nothing, Finished) and nothing.answer.status == "abstained"
            recited = list(service.ask(QUESTION, retrieval=False))[-1]
            assert isinstance(recited, Finished) and recited.answer.status == "unverified"

    def test_many_threads_get_what_one_gets(self, home: Path) -> None:
        with make_service(home) as service:
            upload(service, "bridge.md", BRIDGE)
            upload(service, "tea.md", TEA)
            alone = answer(service)
            with ThreadPoolExecutor(8) as pool:
                texts = list(pool.map(lambda _: answer(service).text, range(40)))
            assert texts == [alone.text] * 40


class TestCollections:
    def test_what_is_ingested_is_found_at_once_and_what_is_removed_no_more(
        self, home: Path
    ) -> None:
        seen: list[tuple[str, int, int]] = []
        with make_service(home) as service:
            upload(service, "tea.md", TEA)
            assert answer(service).status == "abstained"
            report = service.ingest(
                [Piped("bridge.md", BRIDGE)],
                on_file=lambda outcome, done, total: seen.append((outcome.status, done, total)),
            )
            assert seen == [("added", 1, 1)]
            assert answer(service).status == "supported"
            assert service.remove([report.outcomes[0].uri]) == 1
            assert service.remove(["stdin:nothing.md"]) == 0
            assert answer(service).status == "abstained"
            assert all("Ola Fenn" not in one.chunk.text for one in service.search(QUESTION))

    def test_a_collection_that_was_replaced_is_opened_anew(self, home: Path) -> None:
        with make_service(home) as service, make_service(home) as other:
            upload(service, "bridge.md", BRIDGE, "notes")
            assert answer(service, collection="notes").status == "supported"
            other.delete("notes")
            with pytest.raises(UnknownCollection):
                answer(service, collection="notes")
            upload(other, "tea.md", TEA, "notes")
            assert answer(service, collection="notes").status == "abstained"

    def test_files_that_vanish_under_it(self, home: Path) -> None:
        with make_service(home) as service:
            upload(service, "bridge.md", BRIDGE)
            assert answer(service).status == "supported"
            folder = home / "collections" / "default"
            index = [*folder.glob("*.faiss"), folder / "manifest.json"]
            assert len(index) == 2
            for path in index:
                path.unlink()
            assert answer(service).status == "supported"
            shutil.rmtree(folder)
            with pytest.raises(UnknownCollection, match="tether ingest"):
                answer(service)
            upload(service, "bridge.md", BRIDGE)
            assert answer(service).status == "supported"

    def test_it_is_deleted_with_all_its_files(self, home: Path) -> None:
        with make_service(home) as service:
            upload(service, "bridge.md", BRIDGE, "notes")
            upload(service, "tea.md", TEA)
            running = service.ask(QUESTION, collection="notes")
            next(running)
            service.delete("notes")
            assert [info.name for info in service.collections()] == ["default"]
            assert [path.name for path in (home / "uploads").iterdir()] == ["default"]
            assert isinstance(list(running)[-1], Finished)  # what it has open it may read
            with pytest.raises(UnknownCollection):
                service.delete("notes")
            with pytest.raises(UsageError):
                service.delete("../default")

    def test_few_stay_open(self, home: Path) -> None:
        with make_service(home) as service:
            names = [f"c{number}" for number in range(MOST_OPEN + 3)]
            for name in names:
                upload(service, "bridge.md", BRIDGE, name)
            assert list(service._opened) == names[-MOST_OPEN:]
            assert answer(service, collection=names[0]).status == "supported"

    def test_documents_and_their_texts(self, home: Path) -> None:
        with make_service(home) as service:
            uri = upload(service, "bridge.md", BRIDGE).uri
            (info,) = service.documents()
            assert info.uris == (uri,)
            document = service.document(info.id)
            assert document is not None and document.text == BRIDGE.decode()
            assert service.document("f" * 64) is None

    def test_feedback_is_kept(self, home: Path) -> None:
        with make_service(home) as service:
            number = service.keep_feedback(Feedback(QUESTION, DRAFT, thumb="up"))
            with FeedbackStore(home) as store:
                assert [entry.id for entry in store.entries()] == [number]


class TestUploads:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("notes.md", "notes.md"),
            ("../../etc/passwd.md", "passwd.md"),
            ("..\\..\\windows\\system.md", "system.md"),
            ("/etc/shadow.txt", "shadow.txt"),
            (".hidden.md", "hidden.md"),
            ("C:evil.md", "C_evil.md"),
            ("a\x00b\n.md", "ab.md"),
            ("笔记 一.md", "笔记 一.md"),
            ("e\u0301.md", "é.md"),
            ("\u202egpj.md", "gpj.md"),
            ("README", "README"),
            ("长" * 300 + ".md", "长" * 65 + ".md"),
        ],
    )
    def test_a_name_never_leaves_the_folder(self, home: Path, given: str, kept: str) -> None:
        with make_service(home) as service:
            outcome = upload(service, given, BRIDGE)
            assert outcome.status == "added"
            assert [path.name for path in service.uploads().iterdir()] == [kept]
            assert Path(outcome.uri) == service.uploads() / kept
            assert len(kept.encode()) <= 200

    @pytest.mark.parametrize("name", ["", "..", "/", "a/..", " . ", "\n"])
    def test_a_name_of_nothing_is_refused_before_anything_is_written(
        self, home: Path, name: str
    ) -> None:
        with make_service(home) as service:
            with pytest.raises(UsageError, match=r"notes\.md"):
                service.upload([("bridge.md", io.BytesIO(BRIDGE)), (name, io.BytesIO(TEA))])
            assert not (home / "uploads").exists()
        with pytest.raises(UsageError):
            safe_file_name(name)

    def test_a_link_in_the_folder_is_replaced_and_not_followed(
        self, home: Path, tmp_path: Path
    ) -> None:
        target = tmp_path / "precious.md"
        target.write_text("keep me", "utf-8")
        with make_service(home) as service:
            service.uploads().mkdir(parents=True)
            (service.uploads() / "bridge.md").symlink_to(target)
            upload(service, "bridge.md", BRIDGE)
        assert target.read_text("utf-8") == "keep me"

    def test_what_cannot_be_read_is_not_kept_and_the_others_are(self, home: Path) -> None:
        with make_service(home) as service:
            files = [("bad.pdf", io.BytesIO(b"%PDF-1.7 no")), ("bridge.md", io.BytesIO(BRIDGE))]
            report = service.upload(files)
            assert [outcome.status for outcome in report.outcomes] == ["failed", "added"]
            assert [path.name for path in service.uploads().iterdir()] == ["bridge.md"]

    def test_the_same_name_again_replaces_the_document(self, home: Path) -> None:
        with make_service(home) as service:
            upload(service, "notes.md", TEA)
            assert upload(service, "notes.md", BRIDGE).status == "updated"
            assert upload(service, "notes.md", BRIDGE).status == "unchanged"
            assert len(service.documents()) == 1

    def test_removing_takes_the_file_away_and_no_other_file(
        self, home: Path, tmp_path: Path
    ) -> None:
        own = tmp_path / "own.md"
        own.write_bytes(TEA)
        with make_service(home) as service:
            uploaded = upload(service, "bridge.md", BRIDGE).uri
            service.ingest([own])
            assert service.remove([uploaded, own.as_posix()]) == 2
            assert not Path(uploaded).exists()
            assert own.exists()

    def test_what_a_killed_upload_left_is_cleared_after_a_day(self, home: Path) -> None:
        with make_service(home) as service:
            service.uploads().mkdir(parents=True)
            old, new = (service.uploads() / f".{name}.part" for name in ("old", "new"))
            for path in (old, new):
                path.write_bytes(b"half")
            os.utime(old, (time.time() - 90_000,) * 2)
            upload(service, "bridge.md", BRIDGE)
            assert sorted(path.name for path in service.uploads().iterdir()) == [
                ".new.part",
                "bridge.md",
            ]

    def test_a_folder_that_cannot_be_written(self, home: Path) -> None:
        with make_service(home) as service:
            (home / "uploads").write_text("a file where the folder should be", "utf-8")
            with pytest.raises(StoreError, match=r"bridge\.md cannot be kept .*upload it again"):
                upload(service, "bridge.md", BRIDGE)


class TestEnding:
    def test_running_answers_finish_and_waiting_ones_are_refused(
        self, service: Service, gated: GatedGenerator
    ) -> None:
        running = service.ask(QUESTION)
        next(running)
        waiting = service.ask(QUESTION)
        next(waiting)
        closing = threading.Thread(target=service.close, kwargs={"patience": 60})
        closing.start()
        with pytest.raises(ServiceBusy, match="stopping"):
            list(waiting)
        assert not gated.is_closed
        gated.gate.set()
        assert isinstance(list(running)[-1], Finished)
        closing.join(60)
        assert gated.is_closed
        for refused in (lambda: next(service.ask(QUESTION)), lambda: service.search(QUESTION)):
            with pytest.raises(ServiceBusy):
                refused()
        service.close()

    def test_an_answer_that_takes_too_long_is_cancelled(
        self, service: Service, gated: GatedGenerator
    ) -> None:
        failures: list[BaseException] = []

        def ask() -> None:
            try:
                list(service.ask(QUESTION))
            except ServiceBusy as error:
                failures.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        assert gated.wait_until_inside(1)
        service.close(patience=0.1)
        asking.join(60)
        assert len(failures) == 1
        assert gated.inside == 0


@pytest.mark.weights
def test_several_questions_at_once_with_the_real_models(
    home: Path, weights_home: Path, e5_encoder: Encoder, gemma_gguf: Path
) -> None:
    del gemma_gguf  # only there to be prepared, or to skip
    flags = {
        "home": str(weights_home), "reader.answers": "beside", "decoding.max_new_tokens": "12",
        "generator.threads": "1",  # two that wait for each other crawl on a busy machine
    }  # fmt: skip
    settings = load_settings(flags, {})
    generator = build_generator(settings, slots=3)
    settings = load_settings(flags | {"home": str(home)}, {})
    with Service(settings, encoder=e5_encoder, generator=generator) as service:
        upload(service, "bridge.md", BRIDGE)
        upload(service, "tea.md", TEA)
        questions = [QUESTION, "When is the tea from Orra harvested?", "How long is the bridge?"]
        alone = [answer(service, question) for question in questions]
        assert alone[0].status == "supported" and "Ola Fenn" in alone[0].text
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda question: answer(service, question), questions * 2))
        assert [one.status for one in together] == [one.status for one in alone] * 2
        for _ in range(4):  # more than there are slots: each one that is left must free its own
            events = service.ask(QUESTION)
            while not isinstance(next(events), Drafted):
                pass
            events.close()
        assert answer(service).text == alone[0].text
