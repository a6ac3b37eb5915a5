"""Tests of the server's app with models that are made up: what it answers, and what it refuses and why."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import struct
import tempfile
import zlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hostile import tiff_and_fli
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from requested import image_bytes, told_of
from starlette.testclient import TestClient

from raymask.core.errors import InputError
from raymask.data.decode import Pixels
from raymask.data.specs import InputSpec
from raymask.serving.access import Access, Guard
from raymask.serving.admission import CLOSED, Gate
from raymask.serving.app import EVERYBODY, REFUSED, Backend, PredictionResult, build
from raymask.serving.listener import drain, log_path, writing_down
from raymask.serving.requests import MAX_IMAGES, Limits, Refusal
from raymask.serving.schemas import About
from raymask.serving.turns import Turns

ABOUT = About(name="<b>run", models="folds", number=2, members=["mask"], versions={"torch": "9.8.7"}, server="1.2.3")
SPECS = [InputSpec(32, 24, 1.0), InputSpec(16, 16, 0.5)]
Ask = Callable[[Sequence[Pixels]], Awaitable[PredictionResult]]


def huge_png(side: int = 10_000) -> bytes:
    """A PNG of 100 megapixels in a few bytes: a header that says so, and no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


async def answering(pixels: Sequence[Pixels]) -> PredictionResult:
    return told_of(pixels)


def made(ask: Ask = answering, ready: bool = True, access: Access = EVERYBODY, gate: Gate | None = None, **limits: Any) -> Guard:
    async def is_ready() -> bool:
        return ready

    return build(Backend(ABOUT, SPECS, ask, is_ready, log="serve.log"), Limits(**limits), 2, access, gate)


def client(ask: Ask = answering, ready: bool = True, **given: Any) -> TestClient:
    return TestClient(made(ask, ready, **given), raise_server_exceptions=False)


def file_of(content: bytes, name: str = "a.jpg") -> dict[str, Any]:
    return {"files": {"image": (name, content)}}


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def refused(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    sentence = str(answer.json()["error"])
    assert sentence.endswith(".")
    assert sentence[0].isupper() or sentence[0] in "'/"
    return sentence


class TestAnswers:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
    def test_a_file_is_answered(self, kind: str) -> None:
        answer = client().post("/predict", **file_of(image_bytes(kind), "photo.x"))
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["model"] == ABOUT.model_dump()
        assert told["milliseconds"] > 0
        [one] = told["predictions"]
        assert one["name"] == "photo.x"
        assert one["labels"] == {"mask": "grey 90"}
        assert one["members"] == {"mask": {"mask": {"label": "grey 90", "probability": 0.5}}}

    def test_several_files_are_answered_in_their_order(self) -> None:
        files = [("image", (f"{value}.png", image_bytes("PNG", value=value))) for value in (10, 200, 50)]
        told = client().post("/predict", files=files).json()["predictions"]
        assert [(one["name"], one["labels"]["mask"]) for one in told] == [
            ("10.png", "grey 10"), ("200.png", "grey 200"), ("50.png", "grey 50"),
        ]  # fmt: skip

    @pytest.mark.parametrize("several", [False, True])
    def test_json_is_answered(self, several: bool) -> None:
        image = encoded(image_bytes())
        told = client().post("/predict", json={"image": [image, image] if several else image}).json()
        assert [one["labels"]["mask"] for one in told["predictions"]] == ["grey 90"] * (1 + several)

    @pytest.mark.parametrize(
        "written",
        [
            lambda content: base64.encodebytes(content).decode(),
            lambda content: base64.b64encode(content).decode().replace("A", "A\r\n "),
            lambda content: base64.urlsafe_b64encode(content).decode(),
            lambda content: base64.b64encode(content).decode().rstrip("="),
            lambda content: "data:image/png;base64," + base64.b64encode(content).decode(),
            lambda content: "DATA:image/png;charset=x;BASE64," + base64.urlsafe_b64encode(content).decode().rstrip("="),
        ],
    )
    def test_base64_as_it_is_written_by_different_people(self, written: Callable[[bytes], str]) -> None:
        for value in range(100, 103):  # of which one at least needs padding, and some letters differ between the alphabets
            content = image_bytes("PNG", (40 + value, 30), value) + bytes(value - 100)
            answer = client().post("/predict", json={"image": written(content)})
            assert answer.json()["predictions"][0]["labels"] == {"mask": f"grey {value}"}, answer.text

    @pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/docs", "/openapi.json"])
    def test_head_is_get_without_a_body(self, path: str) -> None:
        head, get = client().head(path), client().get(path)
        assert head.status_code == get.status_code == 200
        assert head.content == b""
        for name in ("content-type", "content-security-policy"):
            assert head.headers[name] == get.headers[name]
        assert client().head("/predict").status_code == 405

    def test_models_are_given_pixels_for_each_spec(self) -> None:
        seen: list[tuple[int, ...]] = []

        async def ask(pixels: Sequence[Pixels]) -> PredictionResult:
            seen.extend(of_spec.shape for of_spec in pixels)
            return told_of(pixels)

        assert client(ask).post("/predict", **file_of(image_bytes())).status_code == 200
        assert seen == [(32, 24, 3), (16, 16, 3)]

    def test_health_says_whether_models_answer(self) -> None:
        assert client().get("/health").json() == {"status": "ready", "model": ABOUT.model_dump()}
        assert "do not answer" in refused(client(ready=False).get("/health"), 503)

    def test_metrics_count_answers_images_and_batches(self) -> None:
        visitor = client()
        visitor.post("/predict", files=[("image", ("a", image_bytes())), ("image", ("b", image_bytes()))])
        visitor.post("/predict", json={})
        answer = visitor.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        lines = set(answer.text.splitlines())
        assert {
            'raymask_requests_total{status="200"} 1.0',
            'raymask_requests_total{status="400"} 1.0',
            "raymask_images_total 2.0",
            "raymask_request_seconds_count 2.0",
            'raymask_batch_images_bucket{le="1.0"} 2.0',
            "raymask_waiting_requests 0.0",
        } <= lines

    def test_the_page_needs_nothing_from_elsewhere_and_trusts_no_name(self) -> None:
        answer = client().get("/")
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "http://" not in answer.text
        assert "https://" not in answer.text
        assert "&lt;b&gt;run" in answer.text
        assert "<b>run" not in answer.text

    def test_openapi_knows_both_bodies_and_all_answers(self) -> None:
        asked = client().get("/openapi.json").json()["paths"]["/predict"]["post"]
        assert set(asked["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
        assert set(asked["responses"]) == {"200", *map(str, REFUSED)}
        assert asked["responses"]["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Answer"}


class TestOneGroup:
    """Images of one request that are all of one person."""

    GROUPED = ABOUT.model_copy(update={"by_group": ["gender"]})

    def visitor(self) -> TestClient:
        def together(results: Sequence[PredictionResult]) -> list[Any]:
            labels = {"gender": f"voted over {len(results)}"}
            return [result.prediction.model_copy(update={"labels": labels}) for result in results]

        async def ready() -> bool:
            return True

        backend = Backend(self.GROUPED, SPECS, answering, ready, together=together)
        return TestClient(build(backend, Limits(), 2), raise_server_exceptions=False)

    @pytest.mark.parametrize("said", ["true", "True", "1"])
    def test_they_are_voted_on_together_where_the_request_says_so(self, said: str) -> None:
        files = [("image", (f"{value}.png", image_bytes("PNG", value=value))) for value in (10, 200)]
        told = self.visitor().post(f"/predict?one_group={said}", files=files).json()
        assert told["by_group"] == ["gender"]
        assert [one["labels"] for one in told["predictions"]] == [{"gender": "voted over 2"}] * 2
        assert [one["name"] for one in told["predictions"]] == ["10.png", "200.png"]

    @pytest.mark.parametrize("query", ["", "?one_group=false", "?one_group=0", "?other=1"])
    def test_else_each_is_answered_alone(self, query: str) -> None:
        told = self.visitor().post(f"/predict{query}", **file_of(image_bytes())).json()
        assert told["by_group"] == []
        assert told["predictions"][0]["labels"] == {"mask": "grey 90"}

    def test_a_run_that_votes_on_each_image_alone_says_that_nothing_was_voted_together(self) -> None:
        told = client().post("/predict?one_group=true", **file_of(image_bytes())).json()
        assert told["by_group"] == told["model"]["by_group"] == []
        assert told["predictions"][0]["labels"] == {"mask": "grey 90"}

    @pytest.mark.parametrize("query", ["one_group=", "one_group=yes", "one_group=true&one_group=false"])
    def test_what_says_neither_is_refused(self, query: str) -> None:
        sentence = refused(self.visitor().post(f"/predict?{query}", **file_of(image_bytes())), 400)
        assert sentence.endswith("it may be true or false.")

    def test_it_is_documented_and_on_the_page(self) -> None:
        asked = self.visitor().get("/openapi.json").json()["paths"]["/predict"]["post"]
        [parameter] = asked["parameters"]
        assert parameter["name"] == "one_group"
        assert parameter["schema"] == {"type": "boolean", "default": False}
        page = self.visitor().get("/").text
        assert 'type="checkbox" id="together"' in page
        assert "gender is voted over all of them" in page
        assert 'accept="image/*" multiple' in page
        alone = client().get("/").text
        assert "checkbox" not in alone
        assert " multiple" not in alone


class TestRefusals:
    @pytest.mark.parametrize(
        "body",
        [{"files": {"photo": ("a.jpg", b"x")}}, {"files": {"x": ("", b"")}, "data": {"image": "a.jpg"}}, {"json": {}}]
        + [{"json": value} for value in ([], "image", {"image": None}, {"image": 3}, {"image": []}, {"image": [[]]})],
    )
    def test_without_an_image(self, body: dict[str, Any]) -> None:
        assert "image" in refused(client().post("/predict", **body), 400)

    @pytest.mark.parametrize("kind", [None, "text/plain", "image/jpeg", "application/x-www-form-urlencoded"])
    def test_a_wrong_type(self, kind: str | None) -> None:
        headers = {"content-type": kind} if kind else {}
        sentence = refused(client().post("/predict", content=image_bytes(), headers=headers), 415)
        assert "multipart/form-data" in sentence
        assert (kind or "no type") in sentence

    @pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
    def test_what_is_no_json(self, body: bytes) -> None:
        answer = client().post("/predict", content=body, headers={"content-type": "application/json"})
        assert "no JSON" in refused(answer, 400)

    @pytest.mark.parametrize("image", ["%%%", "abcde", "é", "ab=c", "data:image/png,AAAA", "data:image/png;base64,%41"])
    def test_what_is_no_base64(self, image: str) -> None:
        assert "base64" in refused(client().post("/predict", json={"image": image}), 400)

    @pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=x"])
    def test_a_broken_form(self, kind: str) -> None:
        answer = client().post("/predict", content=b"--y\r\nnonsense", headers={"content-type": kind})
        refused(answer, 400)

    def test_a_broken_image_has_the_reason_of_decode(self) -> None:
        whole = image_bytes(size=(300, 200))
        assert refused(client().post("/predict", **file_of(b"text")), 422) == "'a.jpg': the file is no image that can be read."
        assert refused(client().post("/predict", json={"image": ""}), 422) == "The file is empty."
        assert "the image is broken" in refused(client().post("/predict", **file_of(whole[: len(whole) // 2])), 422)

    def test_what_pillow_would_hand_to_ghostscript_is_not_opened(self) -> None:
        eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
        assert "no image" in refused(client().post("/predict", **file_of(eps, "a.eps")), 422)

    @pytest.mark.filterwarnings("ignore:Image size")
    @pytest.mark.parametrize(("side", "said"), [(10_000, "100 megapixels"), (40_000, "far too many pixels")])
    def test_too_many_pixels_are_refused_by_the_header_alone(self, side: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def decode(*_: object) -> None:
            raise AssertionError("it was decoded")

        monkeypatch.setattr("raymask.serving.requests.read_content", decode)
        sentence = refused(client().post("/predict", **file_of(huge_png(side), "big.png")), 422)
        assert sentence == f"'big.png': the image has {said}; at most {25 if side == 10_000 else '179 megapixels'} are read."

    def test_as_many_pixels_as_allowed_are_answered(self) -> None:
        assert client(max_megapixels=0.0012).post("/predict", **file_of(image_bytes())).status_code == 200
        refused(client(max_megapixels=0.00119).post("/predict", **file_of(image_bytes())), 422)

    def test_what_pillow_would_take_for_a_larger_image_of_another_format(self) -> None:
        """It is decoded as what it was checked as: a TIFF of 8 × 8, and not an animation of 13,000 × 13,000."""
        answer = client().post("/predict", **file_of(tiff_and_fli(13_000), "small.tif"))
        assert answer.json()["predictions"][0]["labels"] == {"mask": "grey 90"}

    def test_images_that_have_too_many_pixels_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def decode(*_: object) -> None:
            raise AssertionError("it was decoded")

        large = io.BytesIO()
        Image.new("1", (5000, 5000)).save(large, "PNG")
        files = [("image", (f"{place}.png", large.getvalue())) for place in range(MAX_IMAGES)]
        monkeypatch.setattr("raymask.serving.requests.read_content", decode)
        assert refused(client().post("/predict", files=files), 413) == (
            "The request's 64 images have 1600 megapixels; send at most 100 at a time."
        )

    def test_text_that_unpacks_to_very_much_is_refused(self) -> None:
        """A PNG may hold any number of texts, each packed into a thousandth of a megabyte; Pillow unpacks 64 of them."""
        name, packed = b"zTXt", b"key\0\0" + zlib.compress(bytes([97]) * 2**20, 9)
        text = struct.pack(">I", len(packed)) + name + packed + struct.pack(">I", zlib.crc32(name + packed))
        content = image_bytes("PNG")
        assert client().post("/predict", **file_of(content[:33] + text * 2 + content[33:])).status_code == 200
        assert "memory" in refused(client().post("/predict", **file_of(content[:33] + text * 20 + content[33:])), 422)

    def test_too_many_images(self) -> None:
        image = encoded(image_bytes())
        assert str(MAX_IMAGES) in refused(client().post("/predict", json={"image": [image] * (MAX_IMAGES + 1)}), 413)
        files = [("image", ("a", image_bytes()))] * (MAX_IMAGES + 1)
        assert str(MAX_IMAGES) in refused(client().post("/predict", files=files), 413)

    def test_too_large_a_body(self) -> None:
        visitor = client(max_mb=0.01)
        assert "0.01 MB" in refused(visitor.post("/predict", **file_of(bytes(20_000))), 413)
        assert visitor.post("/predict", **file_of(image_bytes())).status_code == 200

    @pytest.mark.parametrize(("length", "most"), [(b"1000000000", 0), (None, 12), (b"100", 12)])
    @pytest.mark.parametrize("kind", [b"application/json", b"multipart/form-data; boundary=x"])
    def test_a_body_that_is_too_large_is_not_read_to_its_end(self, length: bytes | None, most: int, kind: bytes) -> None:
        """Neither one that says so, nor one that says nothing or lies."""
        read, status = 0, []
        head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'

        async def receive() -> dict[str, Any]:
            nonlocal read
            read += 1
            return {"type": "http.request", "body": head if read == 1 else bytes(1000), "more_body": True}

        async def send(message: dict[str, Any]) -> None:
            status.append(message.get("status"))

        headers = [(b"content-type", kind), *([(b"content-length", length)] if length else [])]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b"", "root_path": ""}
        asyncio.run(made(max_mb=0.01)(scope, receive, send))
        assert status[0] == 413
        assert read <= most

    def test_one_that_takes_too_long(self) -> None:
        async def never(pixels: Sequence[Pixels]) -> PredictionResult:
            await asyncio.sleep(60)
            raise AssertionError

        assert "within 0.2 s" in refused(client(never, timeout_s=0.2).post("/predict", **file_of(image_bytes())), 504)

    def test_what_the_models_refuse(self) -> None:
        async def busy(pixels: Sequence[Pixels]) -> PredictionResult:
            raise Refusal(503, "The server is busy.", {"Retry-After": "1"})

        answer = client(busy).post("/predict", **file_of(image_bytes()))
        assert refused(answer, 503) == "The server is busy."
        assert answer.headers["retry-after"] == "1"

    def test_a_failure_is_a_sentence_too(self) -> None:
        async def fail(pixels: Sequence[Pixels]) -> PredictionResult:
            raise RuntimeError("secret")

        sentence = refused(client(fail).post("/predict", **file_of(image_bytes())), 500)
        assert "its log, serve.log, says more" in sentence
        assert "secret" not in sentence

    def test_where_there_is_nothing(self) -> None:
        assert refused(client().get("/nonesuch"), 404) == "There is nothing at /nonesuch; see /docs."
        assert refused(client().get("/predict"), 405) == "/predict takes no GET; see /docs."

    @pytest.mark.parametrize("page", ["/docs", "/redoc"])
    def test_the_pages_of_the_api_need_no_other_server(self, page: str) -> None:
        visitor = client()
        sources = re.findall(r"""(?:src|href)=["']([^"']+)""", visitor.get(page).text)
        assert any(source.endswith(".js") for source in sources)
        assert [source for source in sources if visitor.get(source).status_code != 200] == []

    def test_more_requests_than_may_wait(self) -> None:
        """Of five at once three wait for the models, and two are sent away at once."""
        body = json.dumps({"image": encoded(image_bytes())}).encode()

        async def all_at_once() -> list[int]:
            let, statuses = asyncio.Event(), []

            async def waits(pixels: Sequence[Pixels]) -> PredictionResult:
                await let.wait()
                return told_of(pixels)

            app = made(waits, waiting=3)

            async def one() -> None:
                whole = iter([{"type": "http.request", "body": body, "more_body": False}])

                async def receive() -> dict[str, Any]:
                    return next(whole, None) or await asyncio.Event().wait()

                async def send(message: dict[str, Any]) -> None:
                    if message["type"] == "http.response.start":
                        statuses.append(message["status"])
                        let.set() if len(statuses) == 2 else None

                headers = [(b"content-type", b"application/json")]
                scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b""}
                await app({**scope, "root_path": ""}, receive, send)

            await asyncio.gather(*(one() for _ in range(5)))
            return statuses

        assert asyncio.run(all_at_once()) == [503, 503, 200, 200, 200]

    @pytest.mark.parametrize("kind", [b"application/json", b"multipart/form-data; boundary=x"])
    def test_a_client_that_goes_while_it_sends_is_counted(self, kind: bytes) -> None:
        app = made()
        status = asked(app, [{"type": "http.disconnect"}], kind)
        assert status == [CLOSED]
        assert f'raymask_requests_total{{status="{CLOSED}"}} 1.0' in TestClient(app).get("/metrics").text

    def test_a_client_that_goes_while_the_models_compute_stops_them_and_is_counted(self) -> None:
        stopped = []

        async def never(pixels: Sequence[Pixels]) -> PredictionResult:
            try:
                await asyncio.sleep(60)
            finally:
                stopped.append(len(pixels))
            raise AssertionError

        app = made(never)
        body = {"type": "http.request", "body": json.dumps({"image": [encoded(image_bytes())] * 3}).encode(), "more_body": False}
        assert asked(app, [body, 1.5, {"type": "http.disconnect"}]) == [CLOSED]
        assert stopped == [2, 2, 2]
        assert f'raymask_requests_total{{status="{CLOSED}"}} 1.0' in TestClient(app).get("/metrics").text

    def test_an_upload_that_stalls_is_given_up(self) -> None:
        half = {"type": "http.request", "body": b'{"image": "', "more_body": True}
        assert asked(made(idle_s=0.05), [half, 60.0]) == [408]
        assert asked(made(idle_s=0.05, upload_s=0.1), [half, 0.03] * 100) == [408]

    def test_stalled_uploads_take_no_place_of_others(self) -> None:
        """Ten that send half of a body and wait, where two may wait for the models: a whole one is answered at once."""
        half = {"type": "http.request", "body": b'{"image": "', "more_body": True}

        async def all_at_once() -> int:
            app = made(waiting=2, uploads=11, idle_s=5)
            stalled = [asyncio.ensure_future(exchange(app, [half, 60.0])) for _ in range(10)]
            await asyncio.sleep(0.05)
            [status] = await exchange(app, [{"type": "http.request", "body": JSON_BODY, "more_body": False}])
            [busy] = await exchange(made(uploads=0), [])
            for one in stalled:
                one.cancel()
            assert busy == 503
            return status

        assert asyncio.run(all_at_once()) == 200

    def test_bodies_in_memory_are_limited(self) -> None:
        gate = Gate(Limits(most_held=100))

        async def both() -> None:
            async with gate.place(90):
                with pytest.raises(Refusal, match="busy with 1 requests"):
                    async with gate.place(20):
                        pass
            async with gate.place(1000):  # alone, it is taken whatever its size
                pass

        asyncio.run(both())
        assert (gate.waiting, gate.held) == (0, 0)


JSON_BODY = json.dumps({"image": encoded(image_bytes())}).encode()


async def exchange(app: Any, messages: Sequence[Any], kind: bytes = b"application/json", path: str = "/predict") -> list[int]:
    """Status of the answer to a request whose body comes in pieces, with pauses (seconds) between them."""
    statuses, pieces = [], iter(messages)

    async def receive() -> dict[str, Any]:
        for piece in pieces:
            if isinstance(piece, dict):
                return piece
            await asyncio.sleep(piece)
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"content-type", kind)], "query_string": b""}
    await app({**scope, "root_path": ""}, receive, send)
    return statuses


def asked(app: Any, messages: Sequence[Any], kind: bytes = b"application/json") -> list[int]:
    return asyncio.run(exchange(app, messages, kind))


class TestTurns:
    def test_a_small_request_is_not_behind_a_large_one(self) -> None:
        """Of 64 images and then one, where the models take two at a time, the one is among the first."""
        order = []

        async def both() -> None:
            async def ask(pixels: Sequence[Pixels]) -> PredictionResult:
                await asyncio.sleep(0.001)
                order.append(int(pixels[0].mean()))
                return told_of(pixels)

            async def ready() -> bool:
                return True

            app = build(Backend(ABOUT, SPECS, ask, ready, at_once=2), Limits(), 1)
            large, small = (
                json.dumps({"image": [encoded(image_bytes("PNG", value=value))] * count}).encode()
                for value, count in ((10, MAX_IMAGES), (200, 1))
            )
            whole = [{"type": "http.request", "body": body, "more_body": False} for body in (large, small)]
            first = asyncio.ensure_future(exchange(app, [whole[0]]))
            await asyncio.sleep(0.02)
            assert await exchange(app, [whole[1]]) == [200]
            assert await first == [200]

        asyncio.run(both())
        assert len(order) == MAX_IMAGES + 1
        assert order.index(200) < MAX_IMAGES - 10

    def test_places_go_round_among_owners(self) -> None:
        order = []

        async def work(turns: Turns, owner: str) -> None:
            async with turns.place(owner):
                order.append(owner)
                await asyncio.sleep(0)

        async def all_of() -> None:
            turns = Turns(1)
            tasks = [asyncio.ensure_future(work(turns, owner)) for owner in "aaaaabbc"]
            await asyncio.sleep(0)
            tasks[2].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert turns.free == 1
            assert not turns.waiting

        asyncio.run(all_of())
        assert "".join(order) == "aabcaba"


class TestDrain:
    def test_what_is_under_way_is_answered_and_what_comes_is_sent_away(self) -> None:
        gate, said = Gate(Limits()), []

        async def all_of() -> tuple[list[int], Any, list[int]]:
            let = asyncio.Event()

            async def waits(pixels: Sequence[Pixels]) -> PredictionResult:
                await let.wait()
                return told_of(pixels)

            app = made(waits, gate=gate)
            whole = {"type": "http.request", "body": JSON_BODY, "more_body": False}
            begun = {"type": "http.request", "body": JSON_BODY[:20], "more_body": True}
            rest = {"type": "http.request", "body": JSON_BODY[20:], "more_body": False}
            under_way = asyncio.ensure_future(exchange(app, [whole]))
            coming = asyncio.ensure_future(exchange(app, [begun, 0.2, rest]))
            await asyncio.sleep(0.1)
            ending = asyncio.get_running_loop().run_in_executor(None, drain, gate, 10.0, said.append)
            await asyncio.sleep(0.05)
            late = await exchange(app, [whole])
            let.set()
            await ending
            return await under_way + await coming, gate.under_way, late

        assert asyncio.run(all_of()) == ([200, 200], 0, [503])
        assert said == ["2 requests are under way, answered within 10 s; Ctrl-C again ends at once"]
        visitor = TestClient(made(gate=gate))
        assert "drains" in refused(visitor.get("/health"), 503)
        answer = visitor.post("/predict", **file_of(image_bytes()))
        assert "takes no more requests" in refused(answer, 503)
        assert answer.headers["connection"] == "close"
        assert int(answer.headers["retry-after"]) >= 1
        assert "raymask_draining 1.0" in visitor.get("/metrics").text

    def test_it_ends_when_its_time_is_over(self) -> None:
        gate, said = Gate(Limits()), []
        with gate.upload():
            drain(gate, 0.1, said.append)
        assert said[-1] == "one request is not answered within 0.1 s"

    def test_who_is_cut_off_by_the_end_is_told(self) -> None:
        async def cut() -> list[int]:
            async def never(pixels: Sequence[Pixels]) -> PredictionResult:
                await asyncio.sleep(60)
                raise AssertionError

            whole = {"type": "http.request", "body": JSON_BODY, "more_body": False}
            request = asyncio.ensure_future(exchange(made(never), [whole]))
            await asyncio.sleep(0.1)
            request.cancel()
            return await request

        assert asyncio.run(cut()) == [503]


ANY_TEXT = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=40)
CHARSETS = ["undefined", "hex", "idna", "punycode", "utf-7", "rot13", "zlib_codec", "unicode_escape", "mbcs", "none", "a\0b", "é"]
FORM = "form-data; name=image"
DISPOSITIONS = [f"{FORM}; filename=a", f"{FORM}; filename*=x", FORM, "form-data", ""]
METHODS = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "TRACE", "X"]
HEADERS = ["accept", "host", "origin", "authorization", "content-length", "content-encoding", "expect", "x"]
PATHS = ["/predict", "/", "/docs", "/static-offline-docs/../x"]
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just(encoded(image_bytes()))),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["image", "x", ""]), inner, max_size=3)),
    max_leaves=6,
)


class TestStrangeRequests:
    """Whatever comes is answered or refused in a sentence: never by a 500."""

    def answered(self, body: bytes, headers: dict[bytes, bytes]) -> int:
        answer = STRANGERS.post("/predict", content=body, headers={**headers})
        assert answer.status_code < 500, answer.text
        assert answer.status_code == 200 or refused(answer, answer.status_code)
        return int(answer.status_code)

    @given(
        boundary=st.one_of(st.sampled_from(["x", "", '"', "x" * 100, "é"]), ANY_TEXT),
        parameter=st.one_of(st.sampled_from([f"charset={name}" for name in CHARSETS]), ANY_TEXT),
        disposition=st.one_of(st.sampled_from(DISPOSITIONS), ANY_TEXT),
        extra=ANY_TEXT,
        body=st.one_of(st.just(image_bytes()), st.binary(max_size=60)),
        cut=st.integers(0, 30),
    )
    @settings(max_examples=300, deadline=None)
    def test_forms(self, boundary: str, parameter: str, disposition: str, extra: str, body: bytes, cut: int) -> None:
        edge = boundary.encode("latin-1")
        head = f"Content-Disposition: {disposition}\r\nContent-Type: {extra}\r\n\r\n".encode("latin-1")
        content = b"--" + edge + b"\r\n" + head + body + b"\r\n--" + edge + b"--\r\n"
        kind = f"multipart/form-data; boundary={boundary}; {parameter}".encode("latin-1").translate(None, b"\r\n\0")
        self.answered(content[: len(content) - cut], {b"content-type": kind})

    @pytest.mark.parametrize("charset", CHARSETS)
    def test_a_charset_that_no_text_has(self, charset: str) -> None:
        """A name of a field or of a file is utf-8, whatever the request says."""
        head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="\xc3\xa9\xff.png"\r\n\r\n'
        kind = f"multipart/form-data; boundary=x; charset={charset}".encode("latin-1").replace(b"\0", b"")
        assert self.answered(head + image_bytes("PNG") + b"\r\n--x--\r\n", {b"content-type": kind}) == 200

    @given(value=JSON_VALUES, encoding=st.sampled_from(["utf-8", "utf-16", "utf-32", "latin-1", "utf-8-sig"]), name=ANY_TEXT)
    @settings(max_examples=200, deadline=None)
    def test_json(self, value: Any, encoding: str, name: str) -> None:
        kind = f"application/json; charset={name}".encode("latin-1").translate(None, b"\r\n\0")
        self.answered(json.dumps(value).encode(encoding, "replace"), {b"content-type": kind})

    @pytest.mark.parametrize(
        "body",
        [
            *(b'{"image": "QUJD", "image": "QUJD"}', b'{"image": 1e999}', b'{"image": NaN}', b'{"image": "\\ud800"}', b'"image"'),
            *(
                b'{"image": ' + b"9" * 100_000 + b"}",
                b'{"image":' * 50_000,
                b"[" * 990 + b"]" * 990,
                b'\xef\xbb\xbf{"image": ""}',
            ),
        ],
    )
    def test_strange_json(self, body: bytes) -> None:
        assert self.answered(body, {b"content-type": b"application/json"}) in (400, 422)

    @given(
        headers=st.lists(st.tuples(st.sampled_from(HEADERS), ANY_TEXT), max_size=4),
        method=st.sampled_from(METHODS),
        path=st.one_of(st.sampled_from(PATHS), ANY_TEXT.map(lambda text: f"/{text}")),
        query=ANY_TEXT,
    )
    @settings(max_examples=300, deadline=None)
    def test_headers_methods_and_paths(self, headers: list[tuple[str, str]], method: str, path: str, query: str) -> None:
        statuses = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
                assert (b"x-content-type-options", b"nosniff") in message["headers"]
                assert any(name == b"content-security-policy" for name, _ in message["headers"])

        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": raw, "root_path": ""}
        asyncio.run(
            STRANGERS.app({**scope, "query_string": query.encode(), "http_version": "1.1", "scheme": "http"}, receive, send)
        )
        assert len(statuses) == 1
        assert statuses[0] < 500


STRANGERS = client(access=Access("a-token-of-letters", (), ("https://ours.example",)))
STRANGERS.headers["authorization"] = "Bearer a-token-of-letters"


class TestAccess:
    TOKEN = "0123456789abcdef"

    @pytest.mark.parametrize("path", ["/", "/health", "/docs", "/redoc", "/openapi.json"])
    def test_what_needs_no_token(self, path: str) -> None:
        assert client(access=Access(self.TOKEN)).get(path).status_code == 200

    @pytest.mark.parametrize(
        "given", [None, "", "Bearer", "Bearer ", "Bearer 0123456789abcde", "Basic 0123456789abcdef", "Bearer é"]
    )
    @pytest.mark.parametrize(
        ("method", "path"), [("POST", "/predict"), ("GET", "/metrics"), ("GET", "/nonesuch"), ("HEAD", "/metrics")]
    )
    def test_what_needs_one(self, method: str, path: str, given: str | None) -> None:
        headers = {} if given is None else {b"authorization": given.encode("latin-1")}
        answer = client(access=Access(self.TOKEN)).request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert method == "HEAD" or "Authorization: Bearer TOKEN" in refused(answer, 401)

    def test_the_page_asks_for_it(self) -> None:
        page = client(access=Access(self.TOKEN)).get("/").text
        assert "This server asks for a token" in page
        assert self.TOKEN not in page
        assert 'href="metrics"' not in page
        assert 'href="metrics"' in client().get("/").text

    def test_openapi_says_what_needs_it(self) -> None:
        paths = client(access=Access(self.TOKEN)).get("/openapi.json").json()["paths"]
        needs = {path for path, methods in paths.items() if any("security" in method for method in methods.values())}
        assert needs == {"/predict", "/metrics"}
        assert "security" not in str(client().get("/openapi.json").json())

    def test_who_has_it_is_answered(self) -> None:
        headers = {"authorization": f"bearer {self.TOKEN}"}
        visitor = client(access=Access(self.TOKEN))
        assert visitor.post("/predict", headers=headers, **file_of(image_bytes())).status_code == 200
        assert visitor.get("/metrics", headers=headers).status_code == 200

    def test_the_body_of_who_has_none_is_not_read(self) -> None:
        assert asked(made(access=Access(self.TOKEN)), [60.0]) == [401]

    @pytest.mark.parametrize(
        ("host", "status"),
        [("ours.example", 200), ("OURS.example:8000", 200), ("[::1]:80", 200), ("evil.example", 421), ("", 421), ("[", 421)],
    )
    def test_hosts(self, host: str, status: int) -> None:
        visitor = client(access=Access(hosts=("ours.example", "::1")))
        answer = visitor.get("/health", headers={"host": host})
        assert answer.status_code == status
        assert status == 200 or "--allow-host" in refused(answer, 421)

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 200),
            ({"origin": "https://ours.example"}, 200),
            ({"origin": "http://testserver"}, 200),
            ({"origin": "https://behind.a.proxy", "sec-fetch-site": "same-origin"}, 200),
            ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, 403),
            ({"origin": "null"}, 403),
        ],
    )
    def test_origins(self, headers: dict[str, str], status: int) -> None:
        visitor = client(access=Access(origins=("https://ours.example",)))
        answer = visitor.post("/predict", headers=headers, **file_of(image_bytes()))
        assert answer.status_code == status
        allowed = headers.get("origin") == "https://ours.example"
        assert answer.headers.get("access-control-allow-origin") == ("https://ours.example" if allowed else None)
        asks = {**headers, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        before = visitor.options("/predict", headers=asks)
        assert before.status_code == 204
        assert ("authorization" in before.headers.get("access-control-allow-headers", "")) == allowed

    def test_too_many_headers(self) -> None:
        visitor = client()
        assert "headers" in refused(visitor.get("/health", headers={f"x-{place}": "a" for place in range(100)}), 431)
        assert "headers" in refused(visitor.get("/health", headers={"x": "a" * 20_000}), 431)

    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/docs", "/redoc", "/predict", "/nonesuch", "/openapi.json"])
    def test_every_answer_has_the_headers_of_security(self, method: str, path: str) -> None:
        headers = client().request(method, path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]

    def test_the_token_is_read_from_a_file_or_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RAYMASK_TOKEN", raising=False)
        assert Access.checked(None, (), ()).token == ""
        monkeypatch.setenv("RAYMASK_TOKEN", "of-the-environment")
        assert Access.checked(None, (), ()).token == "of-the-environment"
        (tmp_path / "token").write_text("of-the-file-it-is\n")
        assert Access.checked(tmp_path / "token", (), ()).token == "of-the-file-it-is"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (None, "No such file"),
            (b"", "holds no token"),
            (b"short", "fewer than 16"),
            (b"two words that are long", "or others"),
            (b"\xff\xfe", "no text"),
        ],
    )
    def test_a_token_that_cannot_be_one(self, tmp_path: Path, content: bytes | None, said: str) -> None:
        if content is not None:
            (tmp_path / "token").write_bytes(content)
        with pytest.raises(InputError, match=said):
            Access.checked(tmp_path / "token", (), ())

    @pytest.mark.parametrize("origin", ["example.com", "https://example.com/", "https://", "https://example.com/a", ""])
    def test_an_origin_that_is_none(self, origin: str) -> None:
        with pytest.raises(InputError, match="--allow-origin"):
            Access.checked(None, (), (origin,))

    @pytest.mark.parametrize("host", ["https://a.example", "a.example:80", "", "a/b"])
    def test_a_host_that_is_none(self, host: str) -> None:
        with pytest.raises(InputError, match="--allow-host"):
            Access.checked(None, (host,), ())


class TestLog:
    def test_a_request_is_a_line(self, tmp_path: Path) -> None:
        file = log_path(None, tmp_path, 8000)
        with writing_down(file):
            visitor = client()
            visitor.post("/predict", files=[("image", ("a", image_bytes())), ("image", ("b", image_bytes()))])
            visitor.get("/none%0Asuch%20%1b[31m")
            visitor.head("/health")
        lines = file.read_text().splitlines()
        assert file == tmp_path / "serve-8000.log"
        pattern = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} testclient (\S+) (\S+) (\d+) [\d.]+ms (\d+)B (\d+) images"
        found = [re.fullmatch(pattern, line) for line in lines]
        assert all(found), lines
        assert [match.groups()[:3] + match.groups()[4:] for match in found if match] == [
            ("POST", "/predict", "200", "2"),
            ("GET", r"/none%0Asuch%20%1b[31m", "404", "0"),
            ("HEAD", "/health", "200", "0"),
        ]
        assert int(found[0][4]) > 2 * len(image_bytes())  # type: ignore[index]

    def test_no_client_writes_lines_of_its_own(self, tmp_path: Path) -> None:
        async def nothing() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            pass

        scope = {"type": "http", "method": "GET\nX", "path": "/\n\x1b[31m", "headers": [], "client": ("a b\n" * 50, 0)}
        with writing_down(tmp_path / "log"):
            asyncio.run(made()({**scope, "query_string": b"", "root_path": "", "http_version": "1.1"}, nothing, send))
        [line] = (tmp_path / "log").read_text().splitlines()
        assert line.count("\\x0a") >= 3
        assert "\x1b" not in line

    def test_where_the_runs_folder_cannot_be_written_another_is(self, tmp_path: Path) -> None:
        assert log_path(None, tmp_path / "nonesuch", 8001).parent == Path(tempfile.gettempdir())
        with pytest.raises(InputError, match=r"the log .* cannot be written"):
            log_path(tmp_path / "nonesuch" / "log", tmp_path, 8000)
