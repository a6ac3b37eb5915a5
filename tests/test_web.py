"""Tests of the server's app with models that are made up: what it answers, and what it refuses and why."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import struct
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from hostile import tiff_and_fli
from PIL import Image
from starlette.testclient import TestClient

from raymask.answers import About, Elected, JointElected, Prediction
from raymask.data.decode import InputSpec, Pixels
from raymask.uploads import MOST_IMAGES, Limits, Refusal
from raymask.web import CLOSED, Door, Told, build

ABOUT = About(name="<b>run", models="folds", number=2, members=["mask"], versions={"torch": "9.8.7"}, server="1.2.3")
SPECS = [InputSpec(32, 24, 1.0), InputSpec(16, 16, 0.5)]
Ask = Callable[[Sequence[Pixels]], Awaitable[Told]]


def image_bytes(kind: str = "JPEG", size: tuple[int, int] = (40, 30), value: int = 90) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def huge_png(side: int = 10_000) -> bytes:
    """A PNG of 100 megapixels in a few bytes: a header that says so, and no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def told_of(pixels: Sequence[Pixels]) -> Told:
    label = f"grey {pixels[0].mean():.0f}"
    top = JointElected(label=label, probability=0.75, number=3)
    votes = {"mask": {"mask": Elected(label=label, probability=0.5)}}
    said = Prediction(
        labels={"mask": label}, joint=top, probabilities={"mask": {label: 1.0}}, top=[top], agreement=1.0, members=votes
    )
    return Told(said, 1)


async def answering(pixels: Sequence[Pixels]) -> Told:
    return told_of(pixels)


def made(ask: Ask = answering, ready: bool = True, **limits: Any) -> FastAPI:
    async def is_ready() -> bool:
        return ready

    return build(Door(ABOUT, SPECS, ask, is_ready), Limits(**limits), 2)


def client(ask: Ask = answering, ready: bool = True, **limits: Any) -> TestClient:
    return TestClient(made(ask, ready, **limits), raise_server_exceptions=False)


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

    def test_models_are_given_pixels_for_each_spec(self) -> None:
        seen: list[tuple[int, ...]] = []

        async def ask(pixels: Sequence[Pixels]) -> Told:
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
        assert "http://" not in answer.text
        assert "https://" not in answer.text
        assert "&lt;b&gt;run" in answer.text
        assert "<b>run" not in answer.text

    def test_openapi_knows_both_bodies_and_all_answers(self) -> None:
        asked = client().get("/openapi.json").json()["paths"]["/predict"]["post"]
        assert set(asked["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
        assert set(asked["responses"]) == {"200", "400", "413", "415", "422", "503", "504"}
        assert asked["responses"]["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Answer"}


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

    @pytest.mark.parametrize("image", ["%%%", "abc", "é", "data:image/png;base64,AAAA"])
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

        monkeypatch.setattr("raymask.uploads.read_content", decode)
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
        files = [("image", (f"{place}.png", large.getvalue())) for place in range(MOST_IMAGES)]
        monkeypatch.setattr("raymask.uploads.read_content", decode)
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
        assert str(MOST_IMAGES) in refused(client().post("/predict", json={"image": [image] * (MOST_IMAGES + 1)}), 413)
        files = [("image", ("a", image_bytes()))] * (MOST_IMAGES + 1)
        assert str(MOST_IMAGES) in refused(client().post("/predict", files=files), 413)

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
        async def never(pixels: Sequence[Pixels]) -> Told:
            await asyncio.sleep(60)
            raise AssertionError

        assert "within 0.2 s" in refused(client(never, timeout_s=0.2).post("/predict", **file_of(image_bytes())), 504)

    def test_what_the_models_refuse(self) -> None:
        async def busy(pixels: Sequence[Pixels]) -> Told:
            raise Refusal(503, "The server is busy.", {"Retry-After": "1"})

        answer = client(busy).post("/predict", **file_of(image_bytes()))
        assert refused(answer, 503) == "The server is busy."
        assert answer.headers["retry-after"] == "1"

    def test_a_failure_is_a_sentence_too(self) -> None:
        async def fail(pixels: Sequence[Pixels]) -> Told:
            raise RuntimeError("secret")

        sentence = refused(client(fail).post("/predict", **file_of(image_bytes())), 500)
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

            async def waits(pixels: Sequence[Pixels]) -> Told:
                await let.wait()
                return told_of(pixels)

            app = made(waits, waiting=3)

            async def one() -> None:
                async def receive() -> dict[str, Any]:
                    return {"type": "http.request", "body": body, "more_body": False}

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

    def test_a_client_that_goes_is_counted(self) -> None:
        app = made()

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            pass

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b"", "root_path": ""}
        asyncio.run(app(scope, receive, send))
        assert f'raymask_requests_total{{status="{CLOSED}"}} 1.0' in TestClient(app).get("/metrics").text
