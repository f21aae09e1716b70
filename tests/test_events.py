"""The event stream: who is called with what, and that a bad subscriber harms nobody."""

import logging
from dataclasses import FrozenInstanceError
from threading import Barrier, Thread

import pytest

from gesso.events import Event, EventStream, ModelLoading, RecomputedInFloat32, StepDone

STEP = StepDone(job=1, index=0, step=1, num_steps=4, seconds=0.5)
LOADING = ModelLoading(kind="model", name="gesso-mini")


def test_subscribers_get_all_events_or_those_of_their_kinds_in_order():
    stream, everything, steps, two = EventStream(), [], [], []
    stream.subscribe(everything.append)
    stream.subscribe(steps.append, StepDone)
    stream.subscribe(two.append, StepDone, ModelLoading)
    rescued = RecomputedInFloat32(job=1, index=0, network="vae", notice="again in float32")
    for event in (LOADING, STEP, rescued):
        stream.publish(event)
    assert everything == [LOADING, STEP, rescued]
    assert steps == [STEP]
    assert two == [LOADING, STEP]


def test_a_subscription_ends_when_it_is_told_to_even_while_it_is_called():
    stream, seen, others = EventStream(), [], []

    def once(event):
        seen.append(event)
        stop()

    stop = stream.subscribe(once)
    stream.subscribe(others.append)
    stream.publish(STEP)
    stream.publish(STEP)
    stop()
    assert seen == [STEP]
    assert others == [STEP, STEP]


def test_the_same_handler_twice_is_two_subscriptions():
    stream, seen = EventStream(), []
    stop = stream.subscribe(seen.append)
    stream.subscribe(seen.append)
    stop()
    stream.publish(STEP)
    assert seen == [STEP]


def test_a_subscriber_that_raises_is_logged_and_the_others_go_on(caplog):
    stream, seen = EventStream(), []

    def fails(event):
        raise ValueError("a bug of the application")

    stream.subscribe(fails)
    stream.subscribe(seen.append)
    with caplog.at_level(logging.ERROR, logger="gesso"):
        stream.publish(STEP)
    assert seen == [STEP]
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("gesso.events", "a subscriber failed on StepDone")
    assert "a bug of the application" in caplog.text


def test_a_stop_by_the_user_passes_through_a_subscriber():
    stream = EventStream()

    def stopped(event):
        raise KeyboardInterrupt

    stream.subscribe(stopped)
    with pytest.raises(KeyboardInterrupt):
        stream.publish(STEP)


def test_threads_subscribe_and_publish_together():
    stream, begin, counts = EventStream(), Barrier(8), []

    def work():
        begin.wait()
        for _ in range(200):
            seen = []
            stop = stream.subscribe(lambda event, seen=seen: seen.append(event))
            stream.publish(STEP)
            stop()
            counts.append(len(seen) >= 1)

    threads = [Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [True] * 1600
    seen = []
    stream.subscribe(seen.append)
    stream.publish(STEP)
    assert seen == [STEP]
    assert len(stream._subscribers) == 1


@pytest.mark.parametrize("kind", Event.__subclasses__())
def test_no_event_has_a_place_for_a_prompt(kind):
    assert not {"prompt", "negative_prompt", "text", "request", "recipe"} & set(kind.__dataclass_fields__)


def test_an_event_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        STEP.step = 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("PictureDone", r"kind is 'PictureDone', expected a class of events such as StepDone \(did you mean the class"),
        ("Nothing", r"kind is 'Nothing', expected a class of events such as StepDone$"),
        (STEP, r"kind is StepDone\(job=1"),
        (int, r"kind is <class 'int'>, expected a class"),
        ((StepDone, ModelLoading), r"kind is \(<class"),
        ([], r"kind is \[\], expected"),
        (None, r"kind is None, expected"),
    ],
)
def test_a_kind_that_is_no_class_of_events_is_refused_at_once(kind, message):
    stream, seen = EventStream(), []
    with pytest.raises(TypeError, match=message):
        stream.subscribe(seen.append, StepDone, kind)
    stream.publish(STEP)
    assert seen == []


def test_a_handler_that_cannot_be_called_is_refused_at_once():
    with pytest.raises(TypeError, match="handler is 'print', expected a function of an event"):
        EventStream().subscribe("print")
