"""The surface in OpenAI's words: translators alone, then its real client, unmodified, against a server that draws."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from gesso.api.checking import Facts, family_facts
from gesso.api.context import Context
from gesso.api.problems import HttpError
from gesso.pictures.picture_file import read_picture
from gesso.request.migrations import SCHEMA, VERSION
from gesso.request.request import TextToImageRequest
from gesso.serving.jobs import JobStatus
from gesso.surfaces.openai import answers, routes
from gesso.surfaces.openai.links import is_signed, signed_path
from gesso.surfaces.openai.reading import (
    EXTRAS,
    PARAMETERS,
    Asked,
    Inputs,
    Route,
    model_of,
    read_form,
    read_parameters,
    to_request,
)
from serving.drawing_server import drawing_server, run_page
from serving.served import PNG, context, finish, lease, server

PROMPT = "a red car and a blue house"
IMAGE = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
SMALL: dict[str, Any] = {"steps": 2, "seed": 7}
MINI: Facts = family_facts()["gesso-mini"]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def asked(route: Route = "generations", **given: Any) -> Asked:
    return read_parameters(route, {"prompt": PROMPT, **given} if route != "variations" else given)


def refused(route: Route = "generations", **given: Any) -> HttpError:
    with pytest.raises(HttpError) as caught:
        asked(route, **given)
    return caught.value


# ---- parameters ------------------------------------------------------------------------------------------------------


def test_the_clients_own_parameters_are_all_known() -> None:
    """What the client's methods take, by their own signatures."""
    from openai.types import image_create_variation_params, image_edit_params, image_generate_params

    taken: tuple[tuple[str, Any], ...] = (
        ("generations", image_generate_params.ImageGenerateParamsStreaming),
        ("edits", image_edit_params.ImageEditParamsStreaming),
        ("variations", image_create_variation_params.ImageCreateVariationParams),
    )
    for route, params in taken:
        names = set(params.__annotations__) | {
            name for base in params.__orig_bases__ for name in getattr(base, "__annotations__", ())
        }
        known = {name for name, where in PARAMETERS.items() if route in where} | {"image", "mask", "markup"}
        assert names and names <= known, f"{route}: {names - known}"


def test_a_plain_prompt_is_drawn_as_the_model_has_it() -> None:
    plain = asked()
    drawn = to_request("generations", plain, MINI, Inputs())
    assert (drawn.size, drawn.pictures) == ((256, 256), {})
    request = TextToImageRequest.from_dict({"schema": SCHEMA, "version": VERSION, **drawn.request})
    assert request == TextToImageRequest(prompt=PROMPT, width=256, height=256)
    assert answers.output_format(plain) == {"format": "png"}


@pytest.mark.parametrize(
    ("quality", "steps"),
    [
        ("low", 10),
        ("medium", None),
        ("standard", None),
        ("auto", None),
        ("high", 30),
        ("hd", 30),
        ("xhigh", 40),
        ("max", 60),
    ],
)
def test_a_quality_is_a_number_of_steps(quality: str, steps: int | None) -> None:
    drawn = to_request("generations", asked(quality=quality), MINI, Inputs())
    assert drawn.request.get("num_steps") == steps
    own = to_request("generations", asked(quality=quality, num_inference_steps=7), MINI, Inputs())
    assert own.request["num_steps"] == 7


def test_extras_go_by_the_names_that_people_type() -> None:
    drawn = to_request(
        "generations",
        asked(
            n=3,
            size="512x256",
            negative_prompt="dogs",
            cfg_scale=4.5,
            scheduler="karras",
            sampler="DPM++ 2M",
            clip_skip=2,
            seed=5,
            loras=[{"name": "comic", "weight": 0.5}],
            conventions={"emphasis": "ignore"},
            hires={"scale": 2},
        ),
        MINI,
        Inputs(),
    )
    assert drawn.request == {
        "prompt": PROMPT,
        "negative_prompt": "dogs",
        "guidance_scale": 4.5,
        "schedule": "karras",
        "sampler": "DPM++ 2M",
        "clip_skip": 2,
        "seed": 5,
        "loras": [{"name": "comic", "weight": 0.5}],
        "conventions": {"emphasis": "ignore"},
        "hires": {"scale": 2},
        "num_images": 3,
        "width": 512,
        "height": 256,
    }
    for name in ("num_inference_steps", "guidance_scale", "guidance", "eta", "noise", "preset", "strength", "tiling"):
        assert name in EXTRAS


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"prompt": " "}, "prompt", "empty"),
        ({"prompt": "x" * 32_001}, "prompt", "at most 32000"),
        ({"prompt": 3}, "prompt", "expected text"),
        ({"n": 0}, "n", "1 to 10"),
        ({"n": True}, "n", "1 to 10"),
        ({"n": "2"}, "n", "1 to 10"),
        ({"size": "big"}, "size", "WIDTHxHEIGHT"),
        ({"size": "99999x8"}, "size", "16 to 4096"),
        ({"size": "100x3"}, "size", "16 to 4096"),
        ({"quality": "best"}, "quality", "expected one of"),
        ({"output_format": "gif"}, "output_format", "png, jpeg, webp"),
        ({"output_format": "svg"}, "output_format", "png, jpeg, webp"),
        ({"output_compression": 50}, "output_compression", "jpeg and webp"),
        ({"output_format": "jpeg", "output_compression": 101}, "output_compression", "0 to 100"),
        ({"background": "transparent"}, "background", "opaque"),
        ({"background": "sky"}, "background", "expected one of"),
        ({"partial_images": 2}, "partial_images", "stream=true"),
        ({"partial_images": 4, "stream": True}, "partial_images", "0 to 3"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream": True, "response_format": "url"}, "response_format", "not for streams"),
        ({"frame_count": 4}, "frame_count", "animated"),
        ({"svg": {"model": "x"}}, "svg", "vector"),
        ({"moderation": "none"}, "moderation", "expected one of"),
        ({"stepz": 4}, "stepz", "did you mean 'steps'"),
        ({"steps": 4, "num_steps": 5}, "num_steps", "the same"),
        ({"width": 64}, "width", "Unknown parameter"),
        ({"input_fidelity": "high"}, "input_fidelity", "Unknown parameter"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(given: dict[str, Any], param: str, words: str) -> None:
    error = refused(**given)
    assert (error.status, error.field) == (400, param)
    assert words in error.detail


def test_what_has_no_effect_is_said() -> None:
    assert asked().notes == ()
    notes = asked(style="vivid", complexity="low").notes
    assert [note.partition(" ")[0] for note in notes] == ["style", "complexity"]


def test_names_of_openais_models_stand_for_the_default() -> None:
    assert model_of(None, {"sd15"}) == ("gesso-mini", ())
    assert model_of("sd15", {"sd15"}) == ("sd15", ())
    assert model_of("nope", {"sd15"}) == ("nope", ())
    for name in ("dall-e-2", "dall-e-3", "gpt-image-2-2026-04-21", "gpt-image-2.6-sunburst", "chatgpt-image-latest"):
        model, notes = model_of(name, {"sd15"})
        assert model == "gesso-mini" and name in notes[0]
    assert model_of("dall-e-3", {"dall-e-3"}) == ("dall-e-3", ())


def test_text_parts_of_a_form_are_read_as_what_they_are() -> None:
    found = read_form(
        [
            ("n", "2"),
            ("stream", "true"),
            ("prompt", "3"),
            ("seed", "7"),
            ("cfg_scale", "4.5"),
            ("negative_prompt", "12"),
            ("sampler", "euler"),
            ("loras", '[{"name": "comic"}]'),
            ("size", "256x256"),
        ]
    )
    assert found == {
        "n": 2,
        "stream": True,
        "prompt": "3",
        "seed": 7,
        "cfg_scale": 4.5,
        "negative_prompt": "12",
        "sampler": "euler",
        "loras": [{"name": "comic"}],
        "size": "256x256",
    }
    with pytest.raises(HttpError, match="twice"):
        read_form([("n", "1"), ("n", "2")])


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_what_is_clear_in_the_mask_is_drawn_again() -> None:
    image = Image.new("RGB", (64, 32), "red")
    mask = Image.new("RGBA", (64, 32), (9, 9, 9, 255))
    mask.paste((9, 9, 9, 0), (0, 0, 16, 32))
    mask.paste((9, 9, 9, 128), (16, 0, 32, 32))  # half clear is not clear
    drawn = to_request("edits", asked("edits"), MINI, Inputs(images=(image,), mask=mask))
    found = drawn.pictures["mask"]
    assert [found.getpixel((x, 5)) for x in (0, 15, 16, 40)] == [255, 255, 0, 0]
    assert drawn.request["source"] == {"strength": 1.0, "resize": "crop"}
    assert drawn.request["mask"] == {"content": "fill", "blur": 4.0}
    own = to_request("edits", asked("edits", strength=0.3), MINI, Inputs(images=(image,), mask=mask))
    assert own.request["source"]["strength"] == 0.3


def test_a_picture_that_is_partly_clear_is_its_own_mask() -> None:
    image = Image.new("RGBA", (32, 32), (200, 0, 0, 255))
    assert set(to_request("edits", asked("edits"), MINI, Inputs(images=(image,))).pictures) == {"image"}
    image.paste((0, 0, 0, 0), (0, 0, 8, 32))
    drawn = to_request("edits", asked("edits"), MINI, Inputs(images=(image,)))
    assert drawn.pictures["mask"].getbbox() == (0, 0, 8, 32)
    assert "mask" not in to_request("variations", asked("variations"), MINI, Inputs(images=(image,))).pictures


@pytest.mark.parametrize(("fidelity", "strength"), [(None, 0.75), ("low", 0.75), ("high", 0.5)])
def test_fidelity_is_how_much_stays(fidelity: str | None, strength: float) -> None:
    image = Image.new("RGB", (48, 32))
    drawn = to_request("edits", asked("edits", input_fidelity=fidelity), MINI, Inputs(images=(image,)))
    assert drawn.request["source"]["strength"] == strength


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 64), (256, 256)), ((900, 300), (448, 144)), ((100, 190), (192, 352))]
)
def test_auto_keeps_the_shape_of_the_picture_at_the_models_size(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    drawn = to_request("edits", asked("edits"), MINI, Inputs(images=(Image.new("RGB", size),)))
    assert drawn.size == expected == (drawn.request["width"], drawn.request["height"])


def test_further_images_are_control_images() -> None:
    images = tuple(Image.new("RGB", (32, 32), colour) for colour in ("red", "green"))
    controls = [{"model": "gesso-edges", "preprocessor": "canny"}]
    drawn = to_request("edits", asked("edits", controls=controls), MINI, Inputs(images=images))
    assert set(drawn.pictures) == {"image", "hint:0"} and drawn.request["controls"] == controls
    with pytest.raises(HttpError, match="2 images: a model here draws from one"):
        to_request("edits", asked("edits"), MINI, Inputs(images=images))


def test_a_markup_is_laid_over_the_picture() -> None:
    image = Image.new("RGB", (32, 32), "white")
    markup = Image.new("RGBA", (32, 32))
    markup.paste((255, 0, 0, 255), (0, 0, 8, 8))
    found = to_request("edits", asked("edits"), MINI, Inputs(images=(image,), markup=markup)).pictures
    assert set(found) == {"image"}
    assert [found["image"].getpixel((x, 0)) for x in (0, 20)] == [(255, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (Inputs(), "image is missing"),
        (Inputs(images=(Image.new("RGB", (32, 32)),), mask=Image.new("RGBA", (16, 32))), "of one size"),
        (Inputs(images=(Image.new("RGB", (32, 32)),), mask=Image.new("RGB", (32, 32))), "no transparency"),
        (
            Inputs(
                images=(Image.new("RGB", (32, 32)),),
                mask=Image.new("RGBA", (32, 32)),
                markup=Image.new("RGBA", (32, 32)),
            ),
            "exclude each other",
        ),
        (Inputs(images=(Image.new("RGB", (32, 32)),), markup=Image.new("RGB", (32, 32))), "no transparency"),
    ],
)
def test_pictures_that_do_not_go_together_are_refused(inputs: Inputs, words: str) -> None:
    with pytest.raises(HttpError, match=words):
        to_request("edits", asked("edits"), MINI, inputs)


def test_a_signed_address_is_good_for_one_picture_and_one_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = signed_path(tmp_path, "ann", "p-0")
    query = dict(part.split("=") for part in path.partition("?")[2].split("&"))
    assert path.startswith("/v1/images/p-0/file?") and is_signed(tmp_path, image="p-0", **query)
    assert not is_signed(tmp_path, image="p-1", **query)
    assert not is_signed(tmp_path, image="p-0", **query | {"owner": "bob"})
    assert not is_signed(tmp_path, image="p-0", **query | {"until": str(int(query["until"]) + 1)})
    assert not is_signed(tmp_path, image="p-0", **query | {"signature": "ü" * 64})
    assert not is_signed(tmp_path, image="p-0", **query | {"until": "soon"})
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    assert not is_signed(tmp_path, image="p-0", **query)
    assert (tmp_path / "link-secret").stat().st_mode & 0o777 == 0o600


def test_a_repeat_has_the_same_fingerprint_whatever_its_form_looks_like() -> None:
    one = routes.fingerprint("edits", {"prompt": "x", "n": 1}, {"image": [b"a"]})
    assert one == routes.fingerprint("edits", {"n": 1, "prompt": "x"}, {"image": [b"a"]})
    others = [
        routes.fingerprint("generations", {"prompt": "x", "n": 1}, {"image": [b"a"]}),
        routes.fingerprint("edits", {"prompt": "x", "n": 2}, {"image": [b"a"]}),
        routes.fingerprint("edits", {"prompt": "x", "n": 1}, {"image": [b"b"]}),
        routes.fingerprint("edits", {"prompt": "x", "n": 1}, {"mask": [b"a"]}),
    ]
    assert len({one, *others}) == 5


# ---- the real client, and a worker that the test plays ---------------------------------------------------------------


@contextmanager
def client(address: str, key: str = "none", **options: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=key, **{"max_retries": 0, **options}) as made:
        yield made


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Context]]:
    """A server without a worker."""
    with context(tmp_path_factory.mktemp("idle"), rate=10**6) as made, server(made) as address:
        yield address, made


@pytest.fixture
def asking(idle: tuple[str, Context]) -> Iterator[openai.OpenAI]:
    with client(idle[0]) as made:
        yield made
    idle[1].store.cancel_all()


def in_background(call: Any) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(call())
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, answers


def join(thread: threading.Thread) -> None:
    thread.join(20)
    assert not thread.is_alive(), "no answer"


def extra(model: Any) -> dict[str, Any]:
    """What the server says beyond what the client declares."""
    return dict(model.model_extra)


def wait_for_jobs(made: Context, count: int, *statuses: JobStatus) -> None:
    end = time.monotonic() + 10
    while sum(made.store.counts().get(status, 0) for status in statuses) != count:
        assert time.monotonic() < end, made.store.counts()
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("given", "kind", "code", "param"),
    [
        ({"n": 11}, openai.BadRequestError, "invalid_value", "n"),
        ({"size": "250x256"}, openai.BadRequestError, "invalid_field", "size"),
        ({"model": "nope"}, openai.NotFoundError, "model_not_found", "model"),
        ({"extra_body": {"stepz": 3}}, openai.BadRequestError, "unknown_name", "stepz"),
        ({"extra_body": {"steps": 0}}, openai.BadRequestError, "invalid_field", "steps"),
        ({"extra_body": {"cfg_scale": "x"}}, openai.BadRequestError, "invalid_field", "cfg_scale"),
        ({"extra_body": {"loras": [{"name": "nope"}]}}, openai.BadRequestError, "invalid_field", "loras[0].name"),
        ({"extra_headers": {"Idempotency-Key": "a" * 256}}, openai.BadRequestError, "invalid_field", "Idempotency-Key"),
    ],
)
def test_errors_are_the_clients_own_exceptions(
    asking: openai.OpenAI, given: dict[str, Any], kind: type[openai.APIStatusError], code: str, param: str
) -> None:
    with pytest.raises(kind) as caught:
        asking.images.generate(prompt=PROMPT, **given)
    error = caught.value
    assert (error.code, error.param) == (code, param)
    assert error.type == "invalid_request_error"
    assert error.response.headers["x-should-retry"] == "false"
    assert error.response.headers["x-request-id"] and set(error.response.json()) == {"error"}


def test_a_body_that_is_no_json_has_openais_shape_too(idle: tuple[str, Context]) -> None:
    answer = httpx.post(f"{idle[0]}/v1/images/generations", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_request"
    answer = httpx.post(f"{idle[0]}/v1/images/edits", content=b"x", headers={"content-type": "multipart/form-data"})
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_keys_are_asked_for_and_scopes_hold(tmp_path: Path) -> None:
    with context(tmp_path, rate=10**6) as made:
        _, reader = made.keys.add("reader", ("read",))
        with server(made) as address:
            with client(address) as stranger, pytest.raises(openai.AuthenticationError) as caught:
                stranger.images.generate(prompt=PROMPT)
            assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")
            with client(address) as stranger, pytest.raises(openai.AuthenticationError):
                stranger.models.list()
            with client(address, reader) as reading:
                assert [model.id for model in reading.models.list()] == ["gesso-mini"]
                with pytest.raises(openai.PermissionDeniedError):
                    reading.images.generate(prompt=PROMPT)


def test_a_full_queue_is_a_rate_limit_that_says_when_to_come_back(tmp_path: Path) -> None:
    with context(tmp_path, rate=10**6, max_queue=1) as made, server(made) as address:
        with client(address) as asking, client(address, max_retries=0) as other:
            thread, answers = in_background(lambda: asking.images.generate(prompt=PROMPT))
            wait_for_jobs(made, 1, JobStatus.QUEUED)
            with pytest.raises(openai.RateLimitError) as caught:
                other.images.generate(prompt="another")
            assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
            headers = caught.value.response.headers
            assert headers["x-should-retry"] == "true"
            assert int(headers["retry-after-ms"]) == 1000 * int(headers["retry-after"]) > 0
            made.store.cancel_all()
            join(thread)
        (error,) = answers
        assert isinstance(error, openai.ConflictError) and error.code == "cancelled"


def test_a_job_that_fails_is_an_error_of_the_request_or_of_the_server(
    idle: tuple[str, Context], asking: openai.OpenAI
) -> None:
    for code, kind in (("out_of_memory", openai.BadRequestError), ("worker_crashed", openai.InternalServerError)):
        thread, answers = in_background(lambda: asking.images.generate(prompt=PROMPT))
        wait_for_jobs(idle[1], 1, JobStatus.QUEUED)
        idle[1].store.fail(lease(idle[1]), {"code": code, "message": "too much", "field": None, "data": {}})
        join(thread)
        (error,) = answers
        assert type(error) is kind and error.code == code and "too much" in str(error)


def test_a_retry_of_the_client_joins_the_job_that_runs(idle: tuple[str, Context]) -> None:
    """The client gives up after a second and asks again, as it does behind a proxy with little patience."""
    address, made = idle
    before = made.store.counts()
    with client(address, max_retries=2, timeout=1.0) as asking:
        thread, answers = in_background(lambda: asking.images.generate(prompt="a retry", extra_body={"seed": 1}))
        wait_for_jobs(made, 1, JobStatus.QUEUED)
        held = lease(made)
        time.sleep(1.2)
        output = finish(made, held)
        join(thread)
    (answer,) = answers
    assert answer.data[0].id == output.id and answer.gesso["job"] == held.job.id
    assert made.store.counts().get(JobStatus.SUCCEEDED, 0) == before.get(JobStatus.SUCCEEDED, 0) + 1


def test_the_same_call_twice_is_two_jobs_and_with_a_key_one(idle: tuple[str, Context]) -> None:
    address, made = idle
    with client(address) as asking:
        keyed = {"Idempotency-Key": "k1"}
        calls = [
            in_background(lambda: asking.images.generate(prompt="twice")),
            in_background(lambda: asking.images.generate(prompt="twice")),
            in_background(lambda: asking.images.generate(prompt="once", extra_headers=keyed)),
            in_background(lambda: asking.images.generate(prompt="once", extra_headers=keyed)),
        ]
        wait_for_jobs(made, 3, JobStatus.QUEUED)
        ids = [finish(made, lease(made)).id for _ in range(3)]
        for thread, _ in calls:
            join(thread)
        found = [answers[0].data[0].id for _, answers in calls]
        assert set(found) == set(ids) and found[2] == found[3] and len(set(found[:2])) == 2
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            asking.images.generate(prompt="other work", extra_headers=keyed)
        assert caught.value.code == "idempotency_key_reuse"


def test_a_job_that_nobody_waits_for_is_canceled(idle: tuple[str, Context], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "LINGER", 0.05)
    address, made = idle
    with client(address, timeout=0.3) as asking, pytest.raises(openai.APITimeoutError):
        asking.images.generate(prompt="left alone")
    wait_for_jobs(made, 0, JobStatus.QUEUED, JobStatus.RUNNING)


def test_a_retry_after_a_restart_of_the_server_joins_the_job_too(tmp_path: Path) -> None:
    with (
        context(tmp_path, rate=10**6) as made,
        server(made) as address,
        client(address, timeout=0.5) as asking,
        pytest.raises(openai.APITimeoutError),
    ):
        asking.images.generate(prompt="over a restart")
    repeat = {"x-stainless-retry-count": "1"}
    with context(tmp_path, rate=10**6) as made, server(made) as address, client(address) as asking:
        thread, answers = in_background(lambda: asking.images.generate(prompt="over a restart", extra_headers=repeat))
        output = finish(made, lease(made))
        join(thread)
        assert answers[0].data[0].id == output.id
        thread, answers = in_background(lambda: asking.images.generate(prompt="another", extra_headers=repeat))
        wait_for_jobs(made, 1, JobStatus.QUEUED)
        made.store.cancel_all()
        join(thread)


def test_no_more_clients_wait_than_the_server_lets(tmp_path: Path) -> None:
    with context(tmp_path, rate=10**6, max_streams=1) as made, server(made) as address, client(address) as asking:
        thread, answers = in_background(lambda: asking.images.generate(prompt=PROMPT))
        wait_for_jobs(made, 1, JobStatus.QUEUED)
        time.sleep(0.2)  # it waits a moment after its job is there
        with pytest.raises(openai.InternalServerError) as busy:
            asking.images.generate(prompt="one more")
        assert busy.value.code == "overloaded" and busy.value.response.headers["x-should-retry"] == "true"
        made.store.cancel_all()
        join(thread)
        assert isinstance(answers[0], openai.ConflictError)


def test_a_stream_shows_previews_and_ends_with_the_job(idle: tuple[str, Context], asking: openai.OpenAI) -> None:
    made = idle[1]
    preview = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(preview, "JPEG")
    begun = iter(
        asking.images.generate(prompt=PROMPT, stream=True, partial_images=1, size="256x128", output_format="webp")
    )
    held = lease(made)
    made.store.preview(held, "image/jpeg", preview.getvalue())
    partial = next(begun)
    assert partial.type == "image_generation.partial_image" and partial.partial_image_index == 0
    assert (partial.size, partial.background) == ("256x128", "opaque")
    assert image_of(partial.b64_json).format == "WEBP"
    made.store.preview(held, "image/jpeg", preview.getvalue())  # one more than was asked for
    output = finish(made, held)
    (done,) = begun
    assert (
        done.type == "image_generation.completed"
        and base64.b64decode(done.b64_json) == PNG
        and extra(done)["id"] == output.id
    )


def test_a_stream_that_breaks_off_is_an_error_and_one_that_is_left_ends_its_job(
    idle: tuple[str, Context], asking: openai.OpenAI
) -> None:
    made = idle[1]
    begun = asking.images.generate(prompt=PROMPT, stream=True)
    made.store.fail(lease(made), {"code": "out_of_memory", "message": "too much", "field": None, "data": {}})
    with pytest.raises(openai.APIError, match="too much"):
        list(begun)
    with asking.images.generate(prompt=PROMPT, stream=True):
        held = lease(made)
    wait_for_jobs(made, 1, JobStatus.CANCELING)
    assert made.store.canceled(held)


def test_moderations_judge_nothing_and_say_so(asking: openai.OpenAI) -> None:
    values: tuple[tuple[Any, int], ...] = (
        ("a cat", 1),
        (["a", "b"], 2),
        ([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:,"}}], 1),
    )
    for value, count in values:
        found = asking.moderations.create(input=value)
        assert len(found.results) == count and not any(result.flagged for result in found.results)
        assert set(found.results[0].categories.model_dump(by_alias=True).values()) <= {False, None}
        assert len(found.results[0].category_scores.model_dump(by_alias=True)) == 13
        assert (found.model, extra(found.results[0])["judged"]) == ("none", False)
        assert "no safety model" in extra(found)["notice"]
    with pytest.raises(openai.BadRequestError):
        asking.moderations.create(input=[])


def test_models_are_listed_in_the_words_of_both(idle: tuple[str, Context], asking: openai.OpenAI) -> None:
    (model,) = asking.models.list()
    assert (model.id, model.object, model.owned_by) == ("gesso-mini", "model", "gesso")
    assert asking.models.retrieve("gesso-mini").created == model.created > 0
    own = httpx.get(f"{idle[0]}/v1/models").json()
    assert own["models"][0]["name"] == "gesso-mini" and own["object"] == "list"
    with pytest.raises(openai.NotFoundError) as caught:
        asking.models.retrieve("nope")
    assert caught.value.code == "not_found"
    problem = httpx.get(f"{idle[0]}/v1/models/nope")
    assert problem.headers["content-type"] == "application/problem+json" and problem.json()["code"] == "not_found"


def test_who_asks_for_what_is_not_here_reads_so(asking: openai.OpenAI, idle: tuple[str, Context]) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        asking.chat.completions.create(model="gesso-mini", messages=[{"role": "user", "content": "hello"}])
    assert "there is nothing at this address" in str(caught.value) and caught.value.code == "not_found"
    answer = httpx.post(f"{idle[0]}/v1/images/edits", data={"prompt": "a cat"})  # a form without a file
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "image"


def test_a_ping_is_answered(idle: tuple[str, Context]) -> None:
    assert httpx.options(f"{idle[0]}/v1/images/generations").status_code == 204


# ---- the real client, and the built-in model -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    with drawing_server(tmp_path_factory.mktemp("openai")) as (address, _), client(address) as made:
        yield made


def test_the_example_of_the_page(drawing: openai.OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page("serving-openai.md", str(drawing.base_url).removesuffix("/v1/"))
    names["client"].close()
    assert read_picture("car.png")[0].size == (256, 256) and names["event"].type == "image_generation.completed"


def image_of(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_generate(drawing: openai.OpenAI, tmp_path: Path) -> None:
    answer = drawing.images.generate(
        prompt=PROMPT, model="gpt-image-2", n=2, size="128x64", quality="low", user="u1", extra_body=SMALL
    )
    assert (answer.size, answer.quality, answer.background, answer.output_format) == ("128x64", "low", "opaque", "png")
    assert answer.safety_identifier == "u1" and answer.usage is not None and answer.usage.total_tokens == 0
    assert "gpt-image-2" in extra(answer)["gesso"]["notices"][0]
    assert answer.data is not None and [extra(picture)["seed"] for picture in answer.data] == [7, 7]
    pictures = [image_of(picture.b64_json) for picture in answer.data]
    assert [picture.size for picture in pictures] == [(128, 64)] * 2 and pictures[0].tobytes() != pictures[1].tobytes()
    file = tmp_path / "a.png"
    file.write_bytes(base64.b64decode(answer.data[1].b64_json or ""))
    request = read_picture(file)[1].request
    assert (request.prompt, request.num_steps, request.seed, request.first_index) == (PROMPT, 2, 7, 1)
    again = drawing.images.generate(prompt=PROMPT, n=2, size="128x64", extra_body=SMALL)
    assert again.data is not None and image_of(again.data[0].b64_json).tobytes() == pictures[0].tobytes()


def test_generate_as_addresses(drawing: openai.OpenAI) -> None:
    answer = drawing.images.generate(
        prompt=PROMPT,
        size="64x64",
        output_format="webp",
        output_compression=60,
        response_format="url",
        extra_body=SMALL,
    )
    assert answer.data is not None and answer.data[0].b64_json is None
    url = answer.data[0].url
    assert url is not None
    found = httpx.get(url)
    assert (found.status_code, found.headers["content-type"]) == (200, "image/webp")
    assert Image.open(io.BytesIO(found.content)).size == (64, 64)
    assert httpx.get(url[:-1] + ("0" if url[-1] != "0" else "1")).status_code == 403


def test_generate_streamed(drawing: openai.OpenAI) -> None:
    stream = drawing.images.generate(
        prompt=PROMPT, size="128x128", stream=True, partial_images=2, output_format="jpeg", extra_body={"steps": 12}
    )
    events = list(stream)
    assert events[-1].type == "image_generation.completed" and 1 <= len(events) <= 3
    for index, event in enumerate(events):
        assert (event.size, event.output_format) == ("128x128", "jpeg")
        assert image_of(event.b64_json).format == "JPEG"
        assert event.type != "image_generation.partial_image" or event.partial_image_index == index
    assert image_of(events[-1].b64_json).size == (128, 128)


def test_edit_with_a_mask_changes_what_is_clear_alone(drawing: openai.OpenAI) -> None:
    image = Image.linear_gradient("L").resize((128, 128)).convert("RGB")
    mask = Image.new("RGBA", (128, 128), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 64, 128))
    answer = drawing.images.edit(
        image=png(image), mask=("nonsense.txt", png(mask)), prompt="a red car", size="128x128", extra_body=SMALL
    )
    assert answer.data is not None
    found = image_of(answer.data[0].b64_json)
    right, left = (96, 0, 128, 128), (0, 0, 48, 128)
    assert found.crop(right).tobytes() == image.crop(right).tobytes()
    assert found.crop(left).tobytes() != image.crop(left).tobytes()
    assert found.crop((64, 0, 96, 128)).tobytes() != image.crop((64, 0, 96, 128)).tobytes(), "a soft edge"
    answer = drawing.images.edit(
        image=png(image), mask=png(mask), prompt="a red car", size="128x128", extra_body={**SMALL, "mask_blur": 0}
    )
    assert answer.data is not None
    found = image_of(answer.data[0].b64_json)
    assert found.crop((64, 0, 128, 128)).tobytes() == image.crop((64, 0, 128, 128)).tobytes(), "a hard one"


def test_edit_with_a_control_image_streamed(drawing: openai.OpenAI) -> None:
    image = png(Image.radial_gradient("L").resize((64, 64)).convert("RGB"))
    controls = json.dumps([{"model": "gesso-edges", "preprocessor": "canny"}])
    stream = drawing.images.edit(
        image=[image, image],
        prompt="a blue car",
        size="64x64",
        stream=True,
        extra_body={**SMALL, "controls": controls},
    )
    events = list(stream)
    assert events[-1].type == "image_edit.completed" and image_of(events[-1].b64_json).size == (64, 64)


def test_edit_by_json(drawing: openai.OpenAI) -> None:
    image = "data:image/png;base64," + base64.b64encode(png(IMAGE)).decode()
    body = {"prompt": "a red car", "images": [{"image_url": image}], "size": "64x64", **SMALL}
    answer = httpx.post(f"{drawing.base_url}images/edits", json=body, timeout=60)
    assert image_of(answer.json()["data"][0]["b64_json"]).size == (64, 64)
    refused = httpx.post(f"{drawing.base_url}images/edits", json=body | {"images": [{"file_id": "f"}]})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "images"
    refused = httpx.post(f"{drawing.base_url}images/edits", json=body | {"images": "https://localhost/x.png"})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "url_not_allowed"
    refused = httpx.post(f"{drawing.base_url}images/edits", files={"picture": png(IMAGE)}, data={"prompt": "x"})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "picture"
    refused = httpx.post(f"{drawing.base_url}images/edits", files={"image": b"GIF89a"}, data={"prompt": "x"})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "image"
    with pytest.raises(openai.BadRequestError, match="expected a PNG, JPEG or WebP picture"):
        drawing.images.edit(image=("a.png", b"GIF89a"), prompt="x")


def test_variation(drawing: openai.OpenAI) -> None:
    image = png(Image.radial_gradient("L").resize((64, 64)).convert("RGB"))
    with pytest.warns(DeprecationWarning, match="deprecated"):
        answer = drawing.images.create_variation(image=image, n=2, size="256x256", extra_body=SMALL)
    assert answer.data is not None and len(answer.data) == 2
    assert image_of(answer.data[0].b64_json).size == (256, 256)
