"""What the tests of the serving process share: a service of fast parts, and a real server."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from app.http.connections import Impatient
from app.service import Service
from app.settings import load_settings
from model.generators import Decoding, Generator, ScriptedGenerator
from model.prompts import Prompt
from model.verifier import OverlapVerifier
from retrieval.encoders import HashingEncoder
from tests.test_verifier import plain_calibration

QUESTION = "Who built the Zarnith bridge?"
DRAFT = "Ola Fenn [1]"
BRIDGE = b"# Bridges\n\nThe Zarnith bridge was built by Ola Fenn in 1931. It is 41 metres long.\n"
TEA = b"# Tea\n\nTea from Orra is harvested in April. It is exported to Portugal.\n"


class GatedGenerator(ScriptedGenerator):
    """Says its first piece, and the others once `gate` is open; counts who is inside."""

    def __init__(self, reply: str = DRAFT) -> None:
        super().__init__(default=reply)
        self.gate = threading.Event()
        self.inside = 0
        self.most_inside = 0
        self.is_closed = False
        self._changed = threading.Condition()

    def stream(
        self, prompt: Prompt, decoding: Decoding, scores: list[float] | None = None
    ) -> Iterator[str]:
        self._step(1)
        try:
            for number, piece in enumerate(super().stream(prompt, decoding, scores)):
                while number and not self.gate.wait(0.02):
                    yield ""  # as a model that is still at work: it can be stopped here
                yield piece
        finally:
            self._step(-1)

    def _step(self, change: int) -> None:
        with self._changed:
            self.inside += change
            self.most_inside = max(self.most_inside, self.inside)
            self._changed.notify_all()

    def wait_until_inside(self, count: int) -> bool:
        """Wait until so many prompts are being answered; False if that takes half a minute."""
        with self._changed:
            return self._changed.wait_for(lambda: self.inside == count, timeout=30)

    def close(self) -> None:
        self.is_closed = True


def make_service(home: Path, generator: Generator | None = None, **flags: str) -> Service:
    """Return a service without models; `flags` are settings, "__" for the dot."""
    chosen = {"home": str(home), "encoder.model": "hashing", "generator.backend": "none"}
    chosen |= {name.replace("__", "."): value for name, value in flags.items()}
    encoder = HashingEncoder()
    return Service(
        load_settings(chosen, {}),
        encoder=encoder,
        generator=generator or ScriptedGenerator(default=DRAFT),
        verifier=OverlapVerifier(encoder, plain_calibration()),
    )


@contextmanager
def served(app: ASGIApp, protocol: type[Impatient] = Impatient) -> Iterator[str]:
    """Serve an application on a loopback port, as the process does; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, http=protocol, log_config=None, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
